"""Sections on what the report rests on: the data, and how to have it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.report_html import Html, escape, table, tag
from training.report_numbers import (
    NOTHING,
    cell,
    percent,
    whole,
)

Facts = Mapping[str, Any]


def data_card(facts: Facts) -> list[Html]:
    """What was read, what was left out, what was trained on."""
    data = facts["details"]["data"]
    read, training = data["read"], data["training"]
    counts = [
        (name, words)
        for name, words in (
            ("n_rows", "requests in the file"),
            ("n_train_split", "left out: of the train split"),
            ("n_left_out_trained", "left out: the artifact was trained on the text"),
            ("n_incomplete", "left out: without every tier's outcome"),
            ("n_without_outcome", "left out: without an outcome of its tiers"),
            ("n_several_tiers", "left out: several tiers, and none was said to be chosen"),
            ("n_without_cost", "left out: without a cost"),
            ("n_without_propensity", "left out: without a propensity"),
            ("n_requests", "requests used"),
            ("n_texts", "different texts among them"),
        )
        if name in facts
    ]
    rejected: list[list[object]] = [
        [f"rejected: {reason}", cell(n, whole)] for reason, n in read["reasons"].items()
    ]
    used: list[list[object]] = [[words, cell(facts[name], whole)] for name, words in counts]
    rows: list[list[object]] = [
        ["file", facts["data"] or NOTHING],
        ["rows read", cell(read["n_rows"], whole)],
        ["rows that are no outcome (rejected)", cell(read["n_bad"], whole)],
        *rejected,
        ["rows of models that are no tier", cell(read["n_not_a_tier"], whole)],
        ["retries, not counted", cell(read["n_retries"], whole)],
        *used,
        ["out of distribution", cell(facts["out_of_distribution_share"], percent)],
        ["fingerprint of what was compared", tag("code", data["fingerprint"])],
        [
            "trained on",
            (training["name"] or NOTHING) + (" (synthetic)" if training["synthetic"] else ""),
        ],
        ["training: requests fitted", cell(training["n_fitting"], whole)],
        ["training: calibration requests", cell(training["n_calibration"], whole)],
        ["training: split", (training["split"] or {}).get("source") or NOTHING],
        ["training: fingerprint", tag("code", training["fingerprint"] or NOTHING)],
        ["objective", data["objective"] or NOTHING],
        ["estimator", data["estimator"]],
        ["embedder", data["embedder"]],
    ]
    return [table("Data card", ["what", "value"], rows, words=2, label="Data card")]


def reproduce(facts: Facts) -> list[Html]:
    """Command, artifact, seed and versions."""
    found, data = facts["details"]["reproduction"], facts["details"]["data"]
    rows: list[list[object]] = [
        ["artifact", tag("code", facts["artifact_id"])],
        ["artifact made", data["created"] or NOTHING],
        ["prices as of", data["prices_as_of"] or NOTHING],
        ["seed", cell(facts["seed"], whole)],
        ["confidence", cell(facts["confidence"], percent)],
    ]
    if "n_bootstrap" in facts:
        rows.append(["resamples", cell(facts["n_bootstrap"], whole)])
    rows += [[name, version] for name, version in found["versions"].items()]
    command = found["command"]
    return [
        *([] if command is None else [tag("pre", tag("code", command), tabindex="0")]),
        tag(
            "p",
            "The same artifact, data, seed and versions give this file again, byte for byte. All "
            "its numbers are in report.json beside it.",
        ),
        table("Artifact, seed and versions", ["what", "value"], rows, words=2, label="Versions"),
    ]


def remark_list(sentences: Sequence[str]) -> Html:
    """Sentences that belong beside the numbers."""
    return tag("ul", *(tag("li", escape(sentence)) for sentence in sentences))
