"""Plug-ins are kept apart: one that is broken is seen, and stops nobody who does not need it."""

import sys
import textwrap
import time
import types
from pathlib import Path

import pytest

from didact import PluginError, RecipeError, hookimpl
from didact.configs.document import locate, packaged
from didact.configs.jsonschema import recipe_schema
from didact.configs.resolve import checked, described
from didact.plugins.manager import load

GOOD = textwrap.dedent(
    '''
    """A reward."""
    from didact import each, hookimpl

    def brevity(trajectory, *, target: int = 3) -> float:
        """Minus the length."""
        return -len(trajectory.tokens) / target

    @hookimpl
    def register_rewards(register):
        register("brevity", each(brevity))
    '''
)
BROKEN = "import nowhere_to_be_found\n"


def test_a_part_is_found_by_name_and_by_plug_in_and_by_package(install):
    install("short", GOOD)
    registry = load()
    names = ("brevity", "short/brevity", "didact-short/brevity")
    assert len({id(registry.get("reward", name)) for name in names}) == 1
    with pytest.raises(RecipeError, match="no reward named 'long/brevity'"):
        registry.get("reward", "long/brevity")


def test_a_broken_plug_in_is_a_warning_until_a_recipe_needs_it(install):
    install("short", GOOD)
    module = install("sad", BROKEN)
    with pytest.warns(UserWarning, match=f"'sad' of 'didact-sad' could not be loaded .*{module}"):
        registry = load()
    assert checked("grpo", ["rewards.more=brevity"], registry).steps
    with pytest.raises(RecipeError) as caught:
        checked("grpo", ["rewards.more=sad_reward"], registry)
    told = str(caught.value)
    assert "no reward named 'sad_reward'" in told and "'sad' of 'didact-sad' failed" in told
    assert "line 1, in <module>" in told and "import nowhere_to_be_found" in told
    assert "importlib" not in told


def test_a_name_that_is_addressed_to_a_plug_in_shows_that_one_s_failure_alone(install):
    install("sad", BROKEN)
    install("worse", "1 / 0")
    with pytest.warns(UserWarning, match="could not be loaded"):
        registry = load()
    with pytest.raises(RecipeError) as caught:
        registry.get("loss", "worse/x")
    assert "ZeroDivisionError" in str(caught.value)
    assert "nowhere_to_be_found" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("@hookimpl\ndef register_rewads(register): ...", "register_rewads"),
        ("@hookimpl\ndef register_rewards(regster): ...", "regster"),
        (
            "@hookimpl\ndef register_rewards(register):\n"
            "    register('half', print)\n    raise OSError('no disk')",
            "no disk",
        ),
        ("import sys\nsys.exit('run me')", "SystemExit: run me"),
        (
            "@hookimpl\ndef register_rewards(register):\n    return {'half': print}",
            "'register_rewards' returned a dict; a hook is a plain function",
        ),
        ("@hookimpl\ndef register_rewards(register):\n    yield", "returned a generator"),
        (
            "@hookimpl\ndef register_rewards(register):\n    register(print, 'half')",
            "register a reward by name and part",
        ),
        (
            "@hookimpl\ndef register_rewards(register):\n    register('half', print())",
            "register a reward by name and part",
        ),
        (
            "class Half:\n    def __call__(self, groups, run): ...\n"
            "@hookimpl\ndef register_stages(register):\n    register('half', Half())",
            "stage 'half' is an object of Half; register the class",
        ),
        (
            "async def half(trajectories): ...\n"
            "@hookimpl\ndef register_rewards(register):\n    register('half', half)",
            "reward 'half' is an async function",
        ),
    ],
    ids=[
        "unknown hook",
        "wrong argument",
        "raises while registering",
        "leaves",
        "returns its parts",
        "yields",
        "name and part swapped",
        "a part that is none",
        "an object",
        "an async part",
    ],
)
def test_a_plug_in_that_cannot_register_adds_nothing(install, code, said):
    install("bad", f"from didact import hookimpl\n{code}\n")
    with pytest.warns(UserWarning, match=said):
        registry = load()
    assert registry.plugins["bad"].problem and "half" not in registry.names("reward")


def test_settings_that_cannot_be_read_are_one_line_about_the_part(install):
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import Tensor\n"
    code = 'def it(logprobs: "Tensor", *, clip: float = 0.2): ...\n'
    hook = "@hookimpl\ndef register_losses(register):\n    register('it', it)\n"
    install("odd", f"from didact import hookimpl\n{hidden}{code}{hook}")
    said = "loss 'it': its settings cannot be read off its signature: name 'Tensor' is not defined"
    with pytest.raises(PluginError, match=said):
        checked("grpo", ["phases.rl.rule={use: it}"])
    with pytest.raises(PluginError, match=said):
        recipe_schema(load())


def test_a_setting_without_a_type_is_shown(install):
    code = 'def it(logprobs, *, gamma, eps=0.5):\n    """Documented."""\n'
    hook = "@hookimpl\ndef register_losses(register):\n    register('it', it)\n"
    install("odd", f"from didact import hookimpl\n{code}{hook}")
    assert "gamma: Any  (required)\n    eps: Any  (default 0.5)" in described("it")


def test_an_entry_point_that_is_no_name_of_a_module_is_told(install):
    module = install("odd", GOOD)
    (file,) = Path(sys.path[0]).glob("*.dist-info/entry_points.txt")
    file.write_text(file.read_text().replace(module, "not a module"))
    with pytest.warns(UserWarning, match="could not be loaded from 'not a module'"):
        assert "grpo" in packaged() and checked("grpo").steps


def test_two_parts_of_one_name_are_an_error_that_names_both(install):
    install("one", GOOD)
    install("two", GOOD)
    with pytest.raises(PluginError, match="'brevity' is registered twice: by 'one' and 'two'"):
        load()


def test_a_part_called_as_a_built_in_one_is_an_error(install):
    install("one", GOOD.replace('"brevity"', '"exact_match"'))
    with pytest.raises(PluginError, match="by 'didact' and 'one'"):
        load()


def test_two_plug_ins_of_one_name_are_an_error_that_names_both_packages(install):
    install("same", GOOD, package="alpha")
    install("same", GOOD, package="beta")
    with pytest.raises(PluginError, match="that of 'beta' and that of 'alpha'"):
        load()


@pytest.mark.parametrize("declared", ['">=1,<2"', "1", '"~=1.0"'])
def test_a_plug_in_may_say_which_api_it_is_for(install, declared):
    install("short", f"DIDACT_API = {declared}\n{GOOD}")
    assert load().plugins["short"].api and "brevity" in load().names("reward")


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ('">=2,<3"', "needs plug-in API >=2,<3, and this didact serves 1"),
        ("0", "needs plug-in API ==0"),
        ('"soon"', "write it as a range"),
    ],
)
def test_another_api_is_refused_with_both_ranges(install, declared, said):
    install("short", f"DIDACT_API = {declared}\n{GOOD}")
    with pytest.warns(UserWarning, match=said):
        registry = load()
    with pytest.raises(RecipeError, match=said):
        registry.get("reward", "brevity")


def test_a_run_s_record_says_which_plug_ins_there_were(install):
    install("short", GOOD, version="1.2")
    assert load().versions() == {"didact": "built in", "short": "didact-short 1.2"}


def test_a_misspelt_hook_in_an_object_given_by_hand_is_an_error():
    plugin = types.SimpleNamespace()
    plugin.register_losess = hookimpl(lambda register: None)
    with pytest.raises(PluginError, match="register_losess"):
        load([plugin], installed=False)


def test_recipes_of_a_plug_in_are_found_by_name(install):
    install("short", GOOD, recipes=["brief", "nft"])
    assert {"short/brief", "short/nft"} <= set(packaged())
    assert locate("brief") == locate("short/brief")
    assert locate("didact/nft").parent != locate("short/nft").parent
    with pytest.raises(RecipeError, match="ambiguous; say didact/nft or short/nft"):
        locate("nft")


def test_finding_recipes_imports_no_plug_in(install):
    install("sad", BROKEN, recipes=["gloomy"])
    assert locate("gloomy").name == "gloomy.yaml"


def test_loading_two_plug_ins_takes_little_time(install):
    install("one", GOOD)
    install("two", GOOD.replace("brevity", "other"))
    load()  # what they share with the built-in parts is imported

    def seconds(installed):
        began = time.perf_counter()
        load(installed=installed)
        return time.perf_counter() - began

    assert {"one", "two"} <= set(load().plugins)
    assert min(seconds(True) - seconds(False) for _ in range(5)) < 0.05
