"""Copying a model into a file of one's own, where it can be edited."""

from __future__ import annotations

import ast
import builtins
import inspect
import io
import keyword
import re
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import __version__, catalogue
from .errors import StoryError
from .model import Model

__all__ = ["class_name_for", "copy_model"]

WIDTH = 100
HEADER = """\
{name}, a story of your own: a copy of {source} of vaeppl {version}.

`model` is the generative story and `guide` its approximate posterior q(latents | columns). A line
``pyro.sample(name, distribution)`` is a site: with ``obs=`` it is data, and bears the name of its
column; without, it is latent, and the guide draws it too, under the same name. To see what the
story says, to be told of mistakes with the line to mend, and to fit it::

    vaeppl show {file} --data DATA
    vaeppl check {file} --data DATA
    vaeppl fit {file}:{name} --data DATA

or, from Python: ``from {module} import {name}``, then ``vaeppl.fit({name}(...), data)``.

What follows is the text that came with the story.
"""


def copy_model(
    source: str | type[Model] | Model,
    path: str | Path,
    *,
    name: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model into a file of its own, its class renamed, ready to be edited and fitted.

    The file holds the class with all that it uses of its old file, and no other class. It imports
    public names of vaeppl only.

    Parameters
    ----------
    source
        A name of the catalogue (``"vae"``), ``"FILE.py:Class"``, a class, or a model.
    path
        The file to write, ``"my_story.py"``.
    name
        Name of the class; made of the file's name if not given (``MyStory``).
    overwrite
        Whether a file that is there may be replaced.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    StoryError
        If there is no such model, the file is there already, or the name is no name for a class.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> print(copy_model("vae", folder / "my_story.py").name)
    my_story.py
    >>> catalogue.find(str(folder / "my_story.py")).__name__
    'MyStory'
    """
    cls: type = _class(source)
    path = Path(path)
    if path.suffix != ".py":
        raise StoryError(f"a story is written into a Python file; given {str(path)!r}: add .py")
    if not path.stem.isidentifier() or keyword.iskeyword(path.stem):
        raise StoryError(
            f"{path.name!r} cannot be imported: give letters, digits and underscores, such as "
            f"{_importable(path.stem)}.py"
        )
    if path.exists() and not overwrite:
        raise StoryError(f"{path} is there already; give another name, or overwrite=True (--force)")
    if not path.parent.is_dir():
        raise StoryError(f"there is no folder {path.parent} to write {path.name} into")
    name = class_name_for(path) if name is None else name
    if not name.isidentifier() or keyword.iskeyword(name):
        raise StoryError(f"{name!r} is no name for a class: give letters, as in name='MyStory'")
    file = inspect.getsourcefile(cls)
    if file is None:
        raise StoryError(f"{cls.__name__} was not written in a file, so it cannot be copied")
    text = _own_text(Path(file).read_text(encoding="utf-8"), cls.__name__)
    header = HEADER.format(
        name=name,
        source=_described(cls),
        version=__version__,
        file=path.name,
        module=path.stem,
    )
    path.write_text(_with_header(_renamed(text, cls.__name__, name), header), encoding="utf-8")
    return path


def _importable(stem: str) -> str:
    plain = re.sub(r"\W+", "_", stem).strip("_") or "story"
    return plain if plain.isidentifier() and not keyword.iskeyword(plain) else f"my_{plain}"


def _class(source: Any) -> Any:
    if isinstance(source, str):
        return catalogue.find(source)
    return source if inspect.isclass(source) else type(source)


def _described(cls: type) -> str:
    return next(
        (f"`{e.name}`" for e in catalogue.entries() if e.class_name == cls.__name__), cls.__name__
    )


def class_name_for(path: Path) -> str:
    """Return MyStory for my_story.py."""
    words = re.split(r"[^0-9A-Za-z]+", path.stem)
    name = "".join(w[:1].upper() + w[1:] for w in words)
    return name if name.isidentifier() else f"Story{name}"


# --- what of a file belongs to a class ---


def _own_text(text: str, name: str) -> str:
    """Return a file's text without what a class does not use."""
    tree, lines = ast.parse(text), text.splitlines()
    defined = {n: node for node in tree.body for n in _defines(node)}
    needed: set[str] = set()
    todo = [name]
    while todo:
        if (known := todo.pop()) in defined and known not in needed:
            needed.add(known)
            todo += _names(defined[known])
    if name not in needed:
        raise StoryError(f"the file of {name} does not define it at its top, so it is not copied")
    parts: list[str] = []
    end = 0
    for node in tree.body:
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
        before, ahead = end, "\n".join(lines[end:start])  # blank lines and comments
        end = node.end_lineno or start
        kept = _kept(node, "\n".join(lines[start:end]), needed)
        if kept is not None:
            parts += [*([ahead] if start > before else []), kept]
    return "\n".join(parts).strip("\n") + "\n"


def _defines(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement at the top of a file defines."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        yield node.name
    for target in getattr(node, "targets", [getattr(node, "target", None)]):
        yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name)) if target else ()
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (_bound(a) for a in node.names)


def _bound(alias: ast.alias) -> str:
    """Return the name that an import binds."""
    return alias.asname or alias.name.partition(".")[0]


def _names(node: ast.stmt) -> set[str]:
    """Return the names that a statement uses."""
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _kept(node: ast.stmt, text: str, needed: set[str]) -> str | None:
    """Return what is to be kept of a statement at the top of the file; ``None``: nothing."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            return text
        aliases = [a for a in node.names if _bound(a) in needed]
        if len(aliases) == len(node.names):
            return text
        return _import(node, aliases) if aliases else None
    names = list(_defines(node))
    if isinstance(node, ast.Assign) and names == ["__all__"]:
        return None
    return text if not names or needed & set(names) else None


def _import(node: Any, aliases: list[ast.alias]) -> str:
    listed = [a.name + (f" as {a.asname}" if a.asname else "") for a in aliases]
    if isinstance(node, ast.Import):
        return "\n".join(f"import {one}" for one in listed)
    start = f"from {'.' * node.level}{node.module or ''} import "
    if len(start) + len(", ".join(listed)) <= WIDTH:
        return start + ", ".join(listed)
    return f"{start}(\n" + "".join(f"    {one},\n" for one in listed) + ")"


# --- its new name, and its header ---


def _renamed(text: str, old: str, new: str) -> str:
    """Give a class another name, in code and where its documentation refers to it or shows code.

    The text on top of the file is left as it came.
    """
    taken = {t.string for t in _tokens(text) if t.type == tokenize.NAME}
    if new != old and (new in taken or hasattr(builtins, new)):
        raise StoryError(f"the name {new!r} has another meaning in this story: give name=")
    lines = text.splitlines(keepends=True)
    for token in reversed(list(_tokens(text))):
        if token.type == tokenize.NAME and token.string == old:
            row, start = token.start
            line = lines[row - 1]
            lines[row - 1] = line[:start] + new + line[token.end[1] :]
    word = re.compile(rf"(?<![\w.]){re.escape(old)}(?=\()|(?<=:class:`){re.escape(old)}(?=`)")
    word_in_examples = re.compile(rf"(?<![\w.]){re.escape(old)}\b")
    first = ast.parse(text).body[0]
    start = (first.end_lineno or 0) if isinstance(first, ast.Expr) else 0
    for number, line in enumerate(lines[start:], start):
        pattern = word_in_examples if line.lstrip().startswith(">>>") else word
        lines[number] = pattern.sub(new, line)
    return "".join(lines)


def _tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    return tokenize.generate_tokens(io.StringIO(text).readline)


def _with_header(text: str, header: str) -> str:
    """Put a header on top of the file's own docstring."""
    tree = ast.parse(text)
    own = ast.get_docstring(tree, clean=False)
    lines = text.splitlines(keepends=True)
    if own is not None:
        lines = lines[tree.body[0].end_lineno :]
    told = textwrap.dedent(own or "").strip("\n")
    raw = "r" if "\\" in told else ""
    body = f"{header}\n{told}" if told else header.rpartition("\n\n")[0]
    return f'{raw}"""{body.rstrip()}\n"""\n' + "".join(lines)
