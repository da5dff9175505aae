"""The names of metrics and what is known of them before they are computed."""

from mdt_cli.config.evaluation import (
    CODEC_FACTS,
    FACTS,
    METRICS,
    facts_of,
    facts_of_key,
    of_neighbours,
    of_tables,
    that_need,
)


def test_plain_names_belong_to_the_extractor_of_published_tables() -> None:
    assert facts_of("fid").named_by("inception") == "fid"
    assert facts_of("fid").named_by("efficientnet-lite0") == "fd_efficientnet_lite0"
    assert facts_of("fid_infinity").named_by("dinov2") == "fd_infinity_dinov2"
    assert facts_of("is").named_by("efficientnet-lite0") == "is_efficientnet_lite0"
    assert facts_of("cmmd").named_by("clip") == "cmmd"
    assert facts_of("cmmd").named_by("clip-0123abcd") == "cmmd_clip_0123abcd"


def test_facts_are_found_by_every_name_that_a_report_may_have() -> None:
    for facts in (*FACTS, *CODEC_FACTS):
        for extractor in ("inception", "efficientnet-lite0", "clip"):
            assert facts_of_key(facts.named_by(extractor)) is facts
    assert facts_of_key("fd_infinity_x").name == "fid_infinity"
    assert facts_of_key("fidelity") is None


def test_needs_tables_and_neighbours_of_the_known_metrics() -> None:
    assert that_need("moments") == ("fid", "fid_infinity")
    assert that_need("samples", ("fid", "is", "kid")) == ("is", "kid")
    assert that_need("reference", ("fid", "sfid", "is", "kid")) == ("kid",)
    assert of_tables("ADM") == ("fid", "sfid", "is", "precision", "recall")
    assert of_tables("clean-fid") == ("fid", "kid")
    assert of_neighbours(METRICS) == {3: ("precision", "recall"), 5: ("density", "coverage")}
    assert of_neighbours(("recall", "kid")) == {3: ("recall",)}
