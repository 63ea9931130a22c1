"""What differs between vLLM's releases, each with a FAKE engine of that release's signature."""

import pytest

from didact.core.backends.vllm_versions import Versions
from didact.core.errors import RunError

RELEASES = ["0.26.0", "0.27.1", "0.28.0", "0.29.0", "0.30.2", "0.31.0", "0.32.0"]


@pytest.mark.parametrize("text", ["0.25.1", "0.33.0", "1.0.0", "nightly"])
def test_other_releases_are_refused_with_the_remedy(text):
    with pytest.raises(RunError, match=r"pip install 'vllm>=0\.26,<0\.33'"):
        Versions.of(text)


@pytest.mark.parametrize("text", ["0.32.0+cpu", "0.32.0rc1", "0.32"])
def test_builds_of_a_release_are_that_release(text):
    assert Versions.of(text).release == (0, 32, 0)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(("backend", "since"), [("ipc", "0.27.1"), ("nccl", "0.28.0")])
def test_packed_is_said_once_where_the_release_wants_it(release, backend, since):
    versions = Versions.of(release)
    at_init = versions.init_info(backend, {"rank": 0})["init_info"]
    with_chunk = versions.update_info(backend, {"names": ["a"]})["update_info"]
    modern = versions.release >= Versions.of(since).release
    assert at_init == {"rank": 0} | ({"packed": True} if modern else {})
    assert with_chunk == {"names": ["a"]} | ({} if modern else {"packed": True})


class Fake026:
    """FAKE: `LLM` of 0.26, which knows no versions of weights and whose `wake_up` says nothing."""

    def __init__(self):
        self.said = []

    def finish_weight_update(self):
        self.said.append("finish")

    def wake_up(self, tags=None):
        self.said.append(tags)

    def reset_prefix_cache(self):
        return True


class Fake0271(Fake026):
    """FAKE: `LLM` of 0.27.1 to 0.31, which takes a version of the weights."""

    def finish_weight_update(self, weight_version=None):
        self.said.append(weight_version)


class Fake032(Fake0271):
    """FAKE: `LLM` of 0.32, whose `wake_up` says whether the engine is wholly awake."""

    def wake_up(self, tags=None):
        super().wake_up(tags)
        return "kv_cache" in tags


@pytest.mark.parametrize(
    ("release", "fake", "finished"),
    [("0.26.0", Fake026, "finish"), ("0.27.1", Fake0271, "7"), ("0.32.0", Fake032, "7")],
)
def test_each_release_is_spoken_to_by_its_signature(release, fake, finished):
    engine, versions = fake(), Versions.of(release)
    versions.finish(engine, "7")
    versions.wake(engine, ["weights"])
    versions.wake(engine, ["kv_cache"])
    versions.forget_prefixes(engine)
    assert engine.said == [finished, ["weights"], ["kv_cache"]]


def test_an_engine_that_stays_asleep_is_an_error():
    engine = Fake032()
    engine.wake_up = lambda tags: False
    with pytest.raises(RunError, match="wake up"):
        Versions.of("0.32.0").wake(engine, ["kv_cache"])
    Versions.of("0.32.0").wake(engine, ["weights"])


def test_a_prefix_cache_that_stays_is_an_error():
    engine = Fake026()
    engine.reset_prefix_cache = lambda: False
    with pytest.raises(RunError, match="prefix cache"):
        Versions.of("0.26.0").forget_prefixes(engine)
