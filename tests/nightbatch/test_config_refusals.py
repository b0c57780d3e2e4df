"""A wrong configuration is refused in words that lead to the place to put right."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightbatch.config import ConfigError, ServeFlags, load


def problems(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "nightbatch.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load(file, environment={})
    return [problem.removeprefix(str(file)).strip() for problem in refused.value.problems]


def test_an_unknown_key_names_the_line_and_the_closest_key(tmp_path: Path) -> None:
    assert problems(tmp_path, '[server]\nhost = "a"\nprot = 9000\n') == [
        "line 3: unknown key server.prot (did you mean server.port?)"
    ]


def test_an_unknown_section_names_the_closest_section(tmp_path: Path) -> None:
    assert problems(tmp_path, "\n[servr]\nport = 1\n") == ["line 2: unknown key servr (did you mean server?)"]


def test_a_key_in_the_wrong_section_names_the_right_one(tmp_path: Path) -> None:
    assert problems(tmp_path, "[server]\nlease_seconds = 40\n") == [
        "line 2: unknown key server.lease_seconds (lease_seconds belongs to [scheduler])"
    ]


def test_a_key_like_no_other_lists_what_is_known(tmp_path: Path) -> None:
    assert problems(tmp_path, "[logging]\nqqqq = 1\n") == [
        "line 2: unknown key logging.qqqq (known here: level, format)"
    ]


def test_a_key_of_the_second_model_is_found_in_the_second_model(tmp_path: Path) -> None:
    text = '[[models]]\nid = "a"\n\n[[models]]\nid = "b"\nengine_arg = {}\n'
    assert problems(tmp_path, text) == [
        "line 6: unknown key models[2].engine_arg (did you mean models[2].engine_args?)"
    ]


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, '[server]\nport = "x"\n[store]\nline_mib_max = 0\n[logging]\nlevel = "loud"\n')
    assert [problem.split(":")[0] for problem in found] == ["line 2", "line 4", "line 6"]
    assert "not 'x'" in found[0]
    assert "greater than or equal to 1" in found[1]
    assert "'debug', 'info', 'warning' or 'error'" in found[2]


def test_a_dotted_key_is_found_too(tmp_path: Path) -> None:
    assert problems(tmp_path, "server.port = -1\n")[0].startswith("line 1: server.port:")


def test_broken_toml_names_the_file_and_the_place(tmp_path: Path) -> None:
    assert problems(tmp_path, "[server\n")[0].startswith(": is not TOML:")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ('id = "a"\nupstreams = ["http://b/v1"]', 'upstreams is for engine = "remote", this model has engine = "vllm"'),
        ('engine = "remote"', 'engine = "remote" needs upstreams'),
        ('engine = "remote"\nupstreams = ["gpu1:8000"]', "'gpu1:8000' is no URL: write it as http://gpu1:8000/v1"),
        ('engine = "simulated"\nid = "s"', 'engine = "simulated" needs a profile'),
        ('kind = "generate"', "a model needs an id"),
        ('id = "a"\nengine_args = {a = 1}\nengine_flags = ["--a"]', "say the same in two ways"),
        ('id = "a"\nmemory_share = 0.5\nkv_cache_mib = 5', "both size the KV cache"),
        ('id = "a"\nmemory_share = 1.5', "less than or equal to 1"),
        ('id = "a"\n[[models]]\nid = "a"', "a is there twice; for more engines of one model set replicas"),
        ('id = "a"\naliases = ["b"]\n[aliases]\nb = "a"', "alias b has two meanings"),
    ],
)
def test_a_model_that_makes_no_sense_is_refused(tmp_path: Path, model: str, reason: str) -> None:
    assert reason in problems(tmp_path, f"[[models]]\n{model}\n")[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[server]\ninput_kept_days = 1e300", "less than or equal to 36500"),
        ("[tiers]\nlong.seconds = 9223372036854775807", "less than or equal to 3153600000"),
        ("[scheduler]\nappend_interval_ms = inf", "less than or equal to 5000"),
        ("[scheduler]\ninflight_tokens_multiple = inf", "less than or equal to 100"),
        ("[store]\nline_mib_max = 5000", "less than or equal to 2048"),
    ],
)
def test_a_size_or_time_that_nothing_could_hold_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in problems(tmp_path, text)[0]


@pytest.mark.parametrize("target", ["typo", "b"])
def test_an_alias_that_leads_to_no_model_is_refused(tmp_path: Path, target: str) -> None:
    text = f'[[models]]\nid = "m"\n[aliases]\na = "{target}"\nb = "m"\n'
    assert problems(tmp_path, text)[0].endswith(f"aliases: a stands for {target}, which is none of the models: m")


def test_an_alias_may_name_what_an_upstream_turns_out_to_serve(tmp_path: Path) -> None:
    file = tmp_path / "nightbatch.toml"
    file.write_text('[[models]]\nengine = "remote"\nupstreams = ["http://gpu1"]\n[aliases]\na = "llama"\n')
    assert load(file, environment={}).names == {"a": "llama"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[[tenants]]\nname = "a"\nkey_sha256 = ["abc"]', "a SHA-256 has 64 hexadecimal digits"),
        ('[[tenants]]\nname = "a"', "tenants[1].key_sha256: field required"),
        ("[tiers]\n1h.offered = false\n24h.offered = false\n7d.offered = false", "at least one must be offered"),
        ("[tiers]\nday = 5", "tiers.day"),
    ],
)
def test_tenants_and_tiers_are_checked(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in problems(tmp_path, text)[0]


def test_two_tenants_cannot_share_a_key_or_a_name(tmp_path: Path) -> None:
    tenant = '[[tenants]]\nname = "{}"\nkey_sha256 = ["{}"]\n'
    assert "same API key" in problems(tmp_path, tenant.format("a", "0" * 64) + tenant.format("b", "0" * 64))[0]
    assert "same name" in problems(tmp_path, tenant.format("a", "0" * 64) + tenant.format("a", "1" * 64))[0]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("NIGHTBATCH_SERVE__PORT", "1", "NIGHTBATCH_SERVE__PORT: unknown setting (did you mean NIGHTBATCH_SERVER__"),
        (
            "NIGHTBATCH_SERVER__PROT",
            "1",
            "NIGHTBATCH_SERVER__PROT: unknown key server.prot (did you mean",
        ),
        (
            "NIGHTBATCH_STORE__LINES_MAX",
            "many",
            "NIGHTBATCH_STORE__LINES_MAX: store.lines_max: input should be",
        ),
        ("NIGHTBATCH_MODELS", "not json", "lists and tables are written as JSON"),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(environment={name: value})
    assert reason in str(refused.value)


def test_variables_that_are_not_settings_are_left_alone() -> None:
    load(
        environment={
            "NIGHTBATCH_URL": "http://x",
            "NIGHTBATCH_KILL_AT": "append.synced:3",
            # What Kubernetes sets in every pod beside a service named nightbatch.
            "NIGHTBATCH_PORT": "tcp://10.0.0.1:8000",
            "NIGHTBATCH_PORT_8000_TCP_ADDR": "10.0.0.1",
            "NIGHTBATCH_SERVICE_HOST": "10.0.0.1",
        }
    )


def test_a_wrong_flag_is_said_to_be_a_flag() -> None:
    with pytest.raises(ConfigError, match=r"^flags: server.port:"):
        load(flags=ServeFlags(port=70000), environment={})
