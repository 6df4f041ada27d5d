"""Writes the help of a command from its docstring and the field docs of its schema."""

import ast
import dataclasses
import functools
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from fastconv.config.arguments import check_arguments, read_arguments
from fastconv.config.commands import Method
from fastconv.config.overrides import compose, group_options, groups, leaves
from fastconv.config.store import complete


def help_text(config_name: str, doc: str | None, arguments: list[str]) -> str:
    """The help of a command: its purpose, its groups with their options, and every key with its value and meaning.

    The values are those that the overrides among the `arguments` give. Raises InputError for wrong overrides.
    """
    overrides = read_arguments(arguments).overrides
    check_arguments(config_name, overrides, lambda config: None, lambda config: None)
    config = complete(compose(config_name, overrides))
    lines = [inspect.cleandoc(doc or config_name), ""]
    if found := groups(config_name):
        lines += ["Groups (group=option):"]
        lines += [f"  {group:<12} {', '.join(group_options(group))}" for group in found]
        lines += [""]
    lines += ["Keys (key=value), with the value that these overrides give:"]
    for key, value, meaning in described_keys(config):
        lines.append(f"  {key}={value}")
        lines += textwrap.wrap(meaning, 112, initial_indent=" " * 6, subsequent_indent=" " * 6)
    lines += [
        "",
        f"{_sweep_example(doc)}If a key is given twice, the last value counts.",
        "Paths and names are kept as typed. --cfg job prints the composed config. HYDRA_FULL_ERROR=1 shows tracebacks.",
    ]
    return "\n".join(lines)


def _sweep_example(doc: str | None) -> str:
    """A sentence with the first sweep among a command's examples; empty for a command of which nobody wants several."""
    found = re.search(r" -m .*?(\S+=[^\s,\[\]]+,\S+)", doc or "")
    return f"Several values with -m make a sweep: -m {found[1]}. " if found else ""


def described_keys(config: DictConfig) -> Iterator[tuple[str, str, str]]:
    """Yield (key, value, meaning) of every leaf of a composed config.

    What keys of a section that takes any name mean, such as those of `logger`, is said at the first of them.
    """
    said: set[str] = set()
    for key, section, name in leaves(config):
        value = None if OmegaConf.is_missing(section, name) else section[name]
        schema = OmegaConf.get_type(section)
        docs = [field_docs(schema).get(name, "")] if schema else []
        if schema is dict:
            docs = [doc for doc in _docs_of_open_section(config, key.split(".")) if doc not in said]
            said.update(docs)
        yield key, "null" if value is None else str(value), " ".join(docs)


def _docs_of_open_section(config: DictConfig, names: list[str]) -> list[str]:
    """The docs of the section that takes any name, in which a key is, and of the key of a heatmap method."""
    section, docs = config, []
    for name in names[:-1]:
        schema = OmegaConf.get_type(section)
        docs.append(field_docs(schema).get(name, "") if schema else "")
        section = section[name]
    if names[0] == "methods" and len(names) > 2:
        docs.append(field_docs(Method).get(names[2], ""))
    return list(filter(None, docs))


def field_docs(schema: type) -> dict[str, str]:
    """The docstring under each field of a dataclass and of its base classes."""
    docs: dict[str, str] = {}
    for parent in reversed(schema.__mro__):
        if dataclasses.is_dataclass(parent):
            docs |= _own_field_docs(parent)
    return docs


@functools.cache
def _own_field_docs(schema: type) -> dict[str, str]:
    docs: dict[str, str] = {}
    try:
        source = inspect.getsource(schema)
    except OSError:  # that of a user's own component was made for its arguments
        return docs
    (definition,) = ast.parse(textwrap.dedent(source)).body
    assert isinstance(definition, ast.ClassDef)
    for entry, after in itertools.pairwise(definition.body):
        match entry, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = " ".join(text.split())
    return docs
