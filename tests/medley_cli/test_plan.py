"""What a plan says of each kind of change, and when a new version comes up beside the old one."""

import copy
import dataclasses

import pytest
from fake_serve import (
    CHAT,
    DOCUMENT,
    EMBEDDINGS,
    NEEDS,
    answer,
    config,
    entry,
    model,
    replica,
    status_text,
    with_release,
)
from ray.serve._private.application_state import override_deployment_info
from ray.serve._private.config import DeploymentConfig, ReplicaConfig
from ray.serve._private.deploy_utils import get_app_code_version
from ray.serve._private.deployment_info import DeploymentInfo
from ray.serve._private.version import DeploymentVersion
from ray.serve.schema import ServeDeploySchema

from medley.change.differences import Kind, written_alike
from medley.change.plan import paces_in, plan
from medley.change.surge import Resources, parse_cluster_status
from medley.checks.config import ConfigError
from models.catalog import load_catalog

LITTLE, PLENTY = Resources(0.5, 0, 17), Resources(8, 1, 64)


def change_of(edit, app=CHAT, live=None, free=LITTLE, **more):
    """The plan of the document after an edit, and what it says of one application."""
    document = copy.deepcopy(DOCUMENT)
    edit(document)
    found = plan(live or answer(DOCUMENT), config(document), free, **more)
    return found, next(one for one in found.changes if one.app == app)


def of_chat(**args):
    """An edit of the arguments of the chat model."""
    return lambda document: entry(document, CHAT)["args"].update(args)


def option(value, *keys, app=CHAT):
    """An edit of one option of an application's deployment; None takes it out."""

    def edit(document):
        place = entry(document, app)["deployments"][0]
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        if value is None:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value

    return edit


def nothing(document):
    pass


def reworded(document):
    """The same document in other words: defaults written out, keys in another order, whole numbers as fractions."""
    chat = entry(document, CHAT)
    chat["runtime_env"] = {}
    chat["deployments"][0]["backpressure_config"]["retry_after_s"] = 1.0
    chat["deployments"][0] = dict(reversed(chat["deployments"][0].items()))
    chat["logging_config"] = document["logging_config"]


def moved(document):
    document["applications"].reverse()


ACTOR = {"num_cpus": 2}
POLICY = ("autoscaling_config", "policy", "policy_kwargs", "target_ongoing_requests")
SAME_NUMBER = "the same number, written otherwise"
TABLE = {
    "same": (nothing, Kind.UNCHANGED, []),
    "same in other words": (reworded, Kind.UNCHANGED, []),
    "applications in another order": (moved, Kind.UNCHANGED, []),
    "what the code had set": (option(3.0, "health_check_period_s"), Kind.UNCHANGED, []),
    SAME_NUMBER: (option(32.0, *POLICY), Kind.UNCHANGED, []),
    "what is no number": (option(True, *POLICY), Kind.RESTART, [".".join(POLICY)]),
    "a number as text": (option("32", *POLICY), Kind.RESTART, [".".join(POLICY)]),
    "a default written out": (of_chat(metrics=True), Kind.RESTART, ["args.metrics"]),
    "queue": (option(10, "max_queued_requests"), Kind.IN_PLACE, ["max_queued_requests"]),
    "concurrency": (option(8, "max_ongoing_requests"), Kind.IN_PLACE, ["max_ongoing_requests"]),
    "an option taken out": (option(None, "max_queued_requests"), Kind.IN_PLACE, ["max_queued_requests"]),
    "user_config": (option({"a": 1}, "user_config"), Kind.IN_PLACE, ["user_config"]),
    "scaling": (option(3, "autoscaling_config", "max_replicas"), Kind.IN_PLACE, ["autoscaling_config.max_replicas"]),
    "surge alone": (option(100, "max_surge_percent"), Kind.IN_PLACE, ["max_surge_percent"]),
    "shutdown": (option(9, "graceful_shutdown_timeout_s"), Kind.IN_PLACE, ["graceful_shutdown_timeout_s"]),
    "logging": (option({"log_level": "DEBUG"}, "logging_config"), Kind.IN_PLACE, ["logging_config"]),
    "release": (of_chat(release="2"), Kind.RESTART, ["args.release"]),
    "variant": (of_chat(variant="transformers"), Kind.RESTART, ["args.variant"]),
    "policy": (option(16, *POLICY), Kind.RESTART, [".".join(POLICY)]),
    "no scaling": (option(None, "autoscaling_config"), Kind.RESTART, ["autoscaling_config"]),
    "actor options": (option(ACTOR, "ray_actor_options"), Kind.RESTART, ["ray_actor_options"]),
    "placement": (option([{"CPU": 1}], "placement_group_bundles"), Kind.RESTART, ["placement_group_bundles"]),
    "replicas per node": (option(1, "max_replicas_per_node"), Kind.RESTART, ["max_replicas_per_node"]),
    "request router": (option({}, "request_router_config"), Kind.RESTART, ["request_router_config"]),
}


@pytest.mark.parametrize("case", TABLE)
def test_each_kind_of_change(case):
    edit, kind, keys = TABLE[case]
    found, change = change_of(edit)
    assert (change.kind, [difference.key for difference in change.differences]) == (kind, keys)
    # The other applications are not touched by it.
    assert found.apps(Kind.UNCHANGED) >= {EMBEDDINGS, "router"}


def rays_version(document):
    """The version that Serve's controller would give the replicas of the chat model."""
    schema = ServeDeploySchema.model_validate(copy.deepcopy(document))
    (application,) = [one for one in schema.applications if one.name == CHAT]
    application.logging_config = application.logging_config or schema.logging_config
    code = DeploymentInfo(
        deployment_config=DeploymentConfig(health_check_period_s=3),
        replica_config=ReplicaConfig.create(object, ray_actor_options={"num_cpus": 1}),
        start_time_ms=0,
        deployer_job_id="",
    )
    info = override_deployment_info({"model": code}, application)["model"]
    if info.deployment_config.logging_config is None:
        info.deployment_config.logging_config = application.logging_config.model_dump()
    replica_config = info.replica_config
    return DeploymentVersion(
        get_app_code_version(application),
        info.deployment_config,
        replica_config.ray_actor_options,
        placement_group_bundles=replica_config.placement_group_bundles,
        placement_group_strategy=replica_config.placement_group_strategy,
        max_replicas_per_node=replica_config.max_replicas_per_node,
    )


@pytest.mark.parametrize("case", TABLE)
def test_serves_own_controller_decides_as_the_table_says(case):
    edit, kind, _ = TABLE[case]
    document = copy.deepcopy(DOCUMENT)
    edit(document)
    document = written_alike(answer(DOCUMENT), document)  # as it is put
    assert rays_version(DOCUMENT).requires_actor_restart(rays_version(document)) is (kind is Kind.RESTART)


@pytest.mark.parametrize(("deployed", "asked"), [(32, 32.0), (32.0, 32)])
def test_a_number_is_put_as_it_is_deployed_because_serve_compares_texts(deployed, asked):
    before, after = copy.deepcopy(DOCUMENT), copy.deepcopy(DOCUMENT)
    option(deployed, *POLICY)(before)
    option(asked, *POLICY)(after)
    found = plan(answer(before), config(after), LITTLE)
    assert found.is_empty
    assert rays_version(found.document) == rays_version(before)


def test_a_restart_has_a_reason_where_no_key_differs():
    """No application of Medley has two deployments, but others may."""
    policy = {"policy_function": "deployments.autoscaling:ConcurrencyPolicy", "policy_kwargs": {}}
    two = copy.deepcopy(DOCUMENT)
    entry(two, CHAT)["deployments"].append({"name": "other", "autoscaling_config": {"policy": policy}})
    turned = copy.deepcopy(two)
    entry(turned, CHAT)["deployments"].reverse()
    line = next(line for line in plan(answer(two), config(turned), LITTLE).lines() if line.startswith("  !"))
    assert line.endswith("rolling restart: its deployments stand in another order")


def test_scaling_that_is_new_restarts_the_model():
    def edit(document):
        block = entry(document, EMBEDDINGS)["deployments"][0]
        del block["num_replicas"]
        block["autoscaling_config"] = {"min_replicas": 1, "max_replicas": 2}

    _, change = change_of(edit, EMBEDDINGS)
    assert change.kind is Kind.RESTART
    assert change.differences[0].key == "autoscaling_config"


def test_keys_that_restart_come_before_those_that_do_not():
    def edit(document):
        option(10, "max_queued_requests")(document)
        of_chat(release="2")(document)

    found, change = change_of(edit)
    assert [difference.key for difference in change.differences] == ["args.release", "max_queued_requests"]
    assert "args.release 1 -> 2, max_queued_requests 64 -> 10" in "\n".join(found.lines())


def test_no_live_application_makes_everything_an_add():
    found = plan(answer(None), config(DOCUMENT), PLENTY)
    assert [change.kind for change in found.changes] == [Kind.ADD] * 3
    assert not found.interrupts
    assert found.warnings == ()


def test_an_application_that_is_being_deleted_is_added():
    live = answer(DOCUMENT)
    live["applications"][CHAT] |= {"status": "DELETING", "deployed_app_config": None}
    _, change = change_of(nothing, live=live)
    assert change.kind is Kind.ADD


def test_what_the_document_does_not_name_is_removed_unless_a_program_deployed_it():
    live = answer(DOCUMENT)
    live["applications"]["by-a-program"] = copy.deepcopy(live["applications"][CHAT]) | {"source": "imperative"}
    found, change = change_of(lambda document: document["applications"].pop(0), live=live)
    assert (change.kind, change.interrupts) == (Kind.REMOVE, True)
    assert "new requests get 503" in change.effect
    assert "by-a-program" not in {one.app for one in found.changes}


def test_values_of_environment_variables_are_not_shown():
    def edit(document):
        entry(document, CHAT)["runtime_env"] = {"env_vars": {"HF_TOKEN": "hf_secret"}}

    found, change = change_of(edit)
    assert change.kind is Kind.RESTART
    assert "runtime_env" in "\n".join(found.lines())
    assert "hf_secret" not in "\n".join(found.lines())


def test_a_document_that_serve_would_refuse_is_refused_with_the_place():
    with pytest.raises(ConfigError, match=r"max_ongoing_requests"):
        change_of(option(-1, "max_ongoing_requests"))


# Beside the old one, or after it.


@pytest.mark.parametrize(
    ("free", "percent"),
    [
        (Resources(1, 0, 4), 100),
        (Resources(0.99, 0, 4), None),
        (Resources(1, 0, 3.9), None),
        (None, None),
    ],
    ids=["just fits", "CPUs lack", "memory lacks", "not known"],
)
def test_a_new_version_comes_up_beside_the_old_one_when_one_more_replica_fits(free, percent):
    found, change = change_of(of_chat(release="2"), free=free)
    assert entry(found.document, CHAT)["deployments"][0].get("max_surge_percent") == percent
    assert change.interrupts is (percent is None)
    assert [difference.key for difference in change.differences] == ["args.release"]
    assert "a replica needs 1 CPU, 4 GiB; free: " in change.effect


def test_a_gap_is_told_with_its_length_when_it_was_measured():
    _, change = change_of(of_chat(release="2"), cold_starts={CHAT: 31.4})
    assert "The old replica stops before the new one starts" in change.effect
    assert "503 for about 31 s, as long as its last start took" in change.effect
    assert "free: 0.5 CPU, 17 GiB" in change.effect
    _, change = change_of(of_chat(release="2"))
    assert "503 until it is up" in change.effect


def test_the_gap_of_the_router_is_one_of_every_request():
    def edit(document):
        entry(document, "router")["args"]["access_log"] = True

    _, change = change_of(edit, "router", free=Resources(0.1, 0, 9))
    assert (change.kind, change.interrupts) == (Kind.RESTART, True)
    assert "every request waits or gets 503" in change.effect
    assert "a replica needs 0.2 CPU, 0.391 GiB" in change.effect


def test_of_several_replicas_some_serve_on():
    live = answer(DOCUMENT)
    model(live)["target_num_replicas"] = 10
    _, change = change_of(of_chat(release="2"), live=live)
    assert not change.interrupts
    assert "2 of 10 replicas at a time; the others serve" in change.effect


def test_a_model_at_zero_replicas_has_nothing_to_restart():
    live = answer(DOCUMENT)
    model(live).update(target_num_replicas=0, replicas=[])
    _, change = change_of(of_chat(release="2"), live=live)
    assert (change.kind, change.interrupts) == (Kind.RESTART, False)
    assert "No replica runs now" in change.effect


@pytest.mark.parametrize(
    ("percent", "free", "interrupts", "words"),
    [
        (100, PLENTY, False, "comes up beside the old one, which serves until then (a replica"),
        (100, LITTLE, False, "there is no room for both, and it waits until there is"),
        (0, PLENTY, True, "There is room for both: `max_surge_percent: 100` would leave no gap"),
        (0, LITTLE, True, "There is no room for both"),
    ],
)
def test_what_the_file_says_wins_and_its_consequence_is_told(percent, free, interrupts, words):
    def edit(document):
        of_chat(release="2")(document)
        option(percent, "max_surge_percent")(document)

    found, change = change_of(edit, free=free)
    assert entry(found.document, CHAT)["deployments"][0]["max_surge_percent"] == percent
    assert change.interrupts is interrupts
    assert words in change.effect


def test_what_an_earlier_deploy_decided_is_no_change():
    before = copy.deepcopy(DOCUMENT)
    option(100, "max_surge_percent")(before)
    found, change = change_of(nothing, live=answer(before))
    assert change.kind is Kind.UNCHANGED
    # And the next upgrade decides again.
    found, change = change_of(of_chat(release="2"), live=answer(before))
    assert "max_surge_percent" not in entry(found.document, CHAT)["deployments"][0]
    assert [difference.key for difference in change.differences] == ["args.release"]


def test_two_upgrades_do_not_count_on_the_same_room():
    def edit(document):
        of_chat(release="2")(document)
        entry(document, EMBEDDINGS)["args"]["release"] = "2"

    found, chat = change_of(edit, free=Resources(1.1, 0, 16))
    embeddings = next(one for one in found.changes if one.app == EMBEDDINGS)
    assert (chat.interrupts, embeddings.interrupts) == (False, True)
    assert "free: 0.1 CPU, 12 GiB" in embeddings.effect


def test_a_new_model_without_room_is_said_to_wait():
    before = copy.deepcopy(DOCUMENT)
    before["applications"].pop(0)
    _, change = change_of(nothing, live=answer(before))
    assert change.kind is Kind.ADD
    assert "no room for it now, and it waits until there is (a replica needs 1 CPU, 4 GiB; free: 0.5" in change.effect
    _, change = change_of(nothing, live=answer(before), free=PLENTY)
    assert change.effect == ""


def test_the_file_itself_is_not_changed():
    wanted = config(with_release("2"))
    found = plan(answer(DOCUMENT), wanted, PLENTY)
    assert wanted.document == with_release("2")
    assert found.document != wanted.document


# After a failure.


def test_a_failed_application_is_not_tried_again_by_the_same_document():
    live = answer(DOCUMENT)
    live["applications"][CHAT]["status"] = "DEPLOY_FAILED"
    _, change = change_of(nothing, live=live)
    assert change.kind is Kind.UNCHANGED
    assert "Change `release`" in change.effect


def test_going_back_from_a_failed_upgrade_keeps_the_replicas_that_survived():
    live = answer(with_release("broken"))
    live["applications"][CHAT]["status"] = "DEPLOY_FAILED"
    _, back = change_of(nothing, live=live, last_good=DOCUMENT)
    assert (back.kind, back.interrupts) == (Kind.RESTART, False)
    assert "the old replicas that still serve are of this version and stay" in back.effect
    # Going forward replaces them.
    _, forward = change_of(of_chat(release="fixed"), live=live, last_good=DOCUMENT)
    assert forward.interrupts
    assert "The old replica stops before the new one starts" in forward.effect


def test_a_failed_model_without_a_replica_has_nothing_to_interrupt():
    live = answer(with_release("broken"))
    live["applications"][CHAT]["status"] = "DEPLOY_FAILED"
    model(live)["replicas"] = [replica("dead", "STOPPING")]
    _, change = change_of(nothing, live=live, last_good=DOCUMENT)
    assert not change.interrupts
    assert "has no replica now" in change.effect


def test_a_model_that_could_not_be_built_keeps_its_replicas():
    live = answer(with_release("broken"))
    live["applications"][CHAT] |= {"status": "DEPLOY_FAILED", "deployments": {}}
    _, change = change_of(nothing, live=live, last_good=DOCUMENT)
    assert not change.interrupts
    assert "replicas of this version that still run stay" in change.effect


# Keys that Serve reads once.


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda document: document["http_options"].update(port=9000), "http_options differ"),
        (lambda document: document.update(proxy_location="EveryNode"), "proxy_location differs"),
        (lambda document: document.update(grpc_options={"port": 9001}), "grpc_options differ"),
        (lambda document: document.pop("controller_options"), "controller_options differ"),
    ],
)
def test_a_key_that_serve_reads_at_its_first_start_is_a_warning(edit, words):
    found, _ = change_of(edit, started_with=DOCUMENT)
    (warning,) = found.warnings
    assert words in warning
    assert "It needs `medley down` and `medley up`." in warning
    assert f"Warning: {warning}" in found.lines()[-1]
    assert found.is_empty


def test_keys_that_serve_started_with_are_no_warning():
    found, _ = change_of(nothing, started_with=DOCUMENT)
    assert found.warnings == ()


# Ray's numbers.


def test_what_is_free_is_read_from_rays_status():
    assert parse_cluster_status(status_text(cpus=1.5, memory_gib=10, gpus=1)) == Resources(1.5, 1, 10)


def test_a_reservation_that_nobody_uses_yet_is_not_free():
    text = "Total Usage:\n 1.0/4.0 CPU (0.5 used of 2.0 reserved in placement groups)\n 0B/2.00GiB memory\n"
    assert parse_cluster_status(text) == Resources(1.5, 0, 2)


def test_a_status_without_cpus_is_no_answer():
    assert parse_cluster_status("Total Usage:\n (no usage)\n") is None


def of_embeddings(document, **args):
    entry(document, EMBEDDINGS)["args"].update(args)


def beside(document, variant):
    """An application of one more variant of the embedding model."""
    name = f"{EMBEDDINGS}@{variant}"
    one = copy.deepcopy(entry(document, EMBEDDINGS)) | {"name": name, "args": {"model": name}}
    document["applications"].append(one)
    NEEDS.setdefault(name, NEEDS[EMBEDDINGS])
    return name


@pytest.mark.parametrize(("free", "interrupts"), [(PLENTY, False), (Resources(0.2, 0, 0.2), True)])
def test_another_variant_comes_up_beside_the_one_that_serves_where_both_fit(free, interrupts):
    found, change = change_of(lambda document: of_embeddings(document, variant="torch"), EMBEDDINGS, free=free)
    assert (change.kind, change.interrupts) == (Kind.RESTART, interrupts)
    assert [str(difference) for difference in change.differences] == ["args.variant onnx -> torch"]
    needs = load_catalog()[EMBEDDINGS].variants["torch"].needs
    assert f"a replica needs {needs.cpus:.3g} CPU, {needs.memory_gib:.3g} GiB; free: " in change.effect
    words = "The old replica stops before" if interrupts else "The new version comes up beside the old one"
    assert words in change.effect
    assert found.apps(Kind.UNCHANGED) >= {CHAT, "router"}


def test_one_more_variant_is_an_application_of_its_own():
    names = []
    found, change = change_of(lambda document: names.append(beside(document, "torch")), f"{EMBEDDINGS}@torch")
    assert change.kind is Kind.ADD
    assert found.apps(Kind.UNCHANGED) == {CHAT, EMBEDDINGS, "router"}
    assert found.warnings == ()


def without(app):
    def edit(document):
        document["applications"].remove(entry(document, app))

    return edit


def test_who_answers_to_the_name_of_an_application_that_is_taken_out():
    document = copy.deepcopy(DOCUMENT)
    torch, onnx = beside(document, "torch"), beside(document, "onnx")
    live, wanted = answer(document), copy.deepcopy(document)
    without(onnx)(wanted)
    change = next(one for one in plan(live, config(wanted), LITTLE).changes if one.app == onnx)
    assert (change.kind, change.interrupts) == (Kind.REMOVE, False)
    assert change.effect.endswith(f"new requests for {onnx} reach {EMBEDDINGS}.")
    without(EMBEDDINGS)(wanted)
    changes = {one.app: one for one in plan(live, config(wanted), LITTLE).changes}
    assert changes[EMBEDDINGS].effect.endswith(f"new requests for {EMBEDDINGS} reach {torch}.")
    assert changes[onnx].effect.endswith("new requests get 503.")
    assert changes[onnx].interrupts
    # The one that takes over has to start first.
    of_torch = entry(wanted, torch)
    of_torch["args"]["release"] = "2"
    changes = {one.app: one for one in plan(live, config(wanted), LITTLE).changes}
    assert changes[EMBEDDINGS].interrupts
    later = f"reach {torch}, once that is up with it; until then they wait or get 503."
    assert changes[EMBEDDINGS].effect.endswith(later)


def test_a_variant_that_was_chosen_and_is_served_beside_its_model_is_warned_of():
    document = copy.deepcopy(DOCUMENT)
    name = beside(document, "onnx")
    wanted = dataclasses.replace(config(document), choices={EMBEDDINGS: "auto -> onnx: it is fast"})
    found = plan(answer(DOCUMENT), wanted, PLENTY)
    assert found.warnings == (f"{EMBEDDINGS} and {name} serve the same variant, so it is loaded twice.",)
    lines = found.lines()
    (chosen,) = [number for number, line in enumerate(lines) if line.strip() == "auto -> onnx: it is fast"]
    assert lines[chosen - 1].strip().startswith(EMBEDDINGS)


@pytest.mark.parametrize(
    ("promises", "variant", "said"),
    [
        (
            "cpu",
            "vllm-cpu",
            "It keeps its promise alone up to 520 tokens of prompt (of 1024): time to first token 2.5 s.",
        ),
        ("cpu", "transformers", None),  # it has never run here
        ("cpu-ci", "vllm-cpu", None),  # all prompts keep this promise
        (None, "vllm-cpu", None),
    ],
)
def test_what_will_be_too_large_for_the_promise_is_told(promises, variant, said):
    ready = {CHAT: {"pace": {"vllm-cpu": {"unit": "tokens of prompt", "sizes": [[16, 1, 0, 2], [1024, 4, 0, 9]]}}}}

    def edit(document):
        entry(document, CHAT)["args"]["variant"] = variant
        entry(document, "router")["args"]["promises"] = promises

    found, _ = change_of(edit, paces=paces_in(ready | {"unknown": {"pace": ready[CHAT]["pace"]}}))
    told = [line.strip() for line in found.lines() if "keeps its promise" in line]
    assert told == ([said] if said else [])
