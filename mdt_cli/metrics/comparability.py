"""Whether a number is comparable with published ones: a rule without exceptions."""

from dataclasses import dataclass

# Both families of tables score 50,000 samples.
PUBLISHED_COUNT = 50_000


@dataclass(frozen=True)
class Conditions:
    """How the numbers were computed."""

    metrics: tuple[str, ...]
    extractor: str
    resize: str
    num_samples: int
    # SHA-256 of the reference file, where its arrays are named as in ADM's files.
    adm_sha256: str | None
    # The same, where only the name of the file says that its statistics are clean-fid's.
    named_sha256: str | None
    reference_origin_known: bool
    jpeg_samples: int
    resized_samples: int


@dataclass(frozen=True)
class Stamp:
    """Which numbers may stand in one family of tables, or why none, and what is left to check."""

    comparable: bool
    metrics: tuple[str, ...]
    why_not: tuple[str, ...]
    condition: str


def adm_stamp(conditions: Conditions, in_tables: tuple[str, ...]) -> Stamp:
    """ImageNet tables made with the evaluator of Dhariwal & Nichol 2021 (FID, IS, P/R)."""
    why_not = _common(conditions)
    if conditions.extractor == "inception" and conditions.resize != "legacy_tensorflow":
        why_not.append(f"resizing is {conditions.resize}, those tables use legacy_tensorflow")
    if conditions.adm_sha256 is None:
        why_not.append("the reference is not one of ADM's npz files (arr_0, mu, sigma, mu_s)")
    condition = (
        "labels were drawn uniformly at random and the table names this very reference file, "
        f"known here by its arrays' names alone (SHA-256 {_short(conditions.adm_sha256)})"
    )
    if {"precision", "recall"} & set(conditions.metrics):
        condition += (
            "; precision and recall in those tables come from distances in float16, here float64: "
            "they can differ by 0.001"
        )
    return _stamp(conditions, in_tables, why_not, condition)


def clean_fid_stamp(conditions: Conditions, in_tables: tuple[str, ...]) -> Stamp:
    """Tables made with clean-fid in its mode `clean` (FID, KID)."""
    why_not = _common(conditions)
    if conditions.extractor == "inception" and conditions.resize != "clean":
        why_not.append(f"resizing is {conditions.resize}, those tables use clean")
    if not conditions.reference_origin_known:
        why_not.append("the reference file does not record how it was computed")
    condition = "the table names the same reference images at the same resolution"
    if conditions.named_sha256 is not None:
        condition += (
            " and this file of statistics is what its name says "
            f"(SHA-256 {_short(conditions.named_sha256)})"
        )
    return _stamp(conditions, in_tables, why_not, condition)


def _stamp(
    conditions: Conditions, in_tables: tuple[str, ...], why_not: list[str], condition: str
) -> Stamp:
    held = tuple(metric for metric in in_tables if metric in conditions.metrics)
    if not held:
        why_not.append(f"of {', '.join(in_tables)} in those tables none was computed")
    return Stamp(not why_not, held, tuple(why_not), condition)


def _common(conditions: Conditions) -> list[str]:
    reasons = []
    if conditions.extractor != "inception":
        own = " (tables of FD-DINOv2 round after resizing, or do not clip: close, not the same)"
        reasons.append(
            f"the extractor is {conditions.extractor}, not inception"
            + (own if conditions.extractor == "dinov2" else "")
        )
    if conditions.num_samples != PUBLISHED_COUNT:
        reasons.append(f"{conditions.num_samples:,} samples were scored, not {PUBLISHED_COUNT:,}")
    if conditions.jpeg_samples:
        reasons.append(f"{conditions.jpeg_samples:,} samples are JPEG or of another lossy format")
    if conditions.resized_samples:
        reasons.append(f"{conditions.resized_samples:,} samples were resized by --size")
    return reasons


def _short(sha256: str | None) -> str:
    """The beginning of a digest, which is enough to distinguish files."""
    return f"{(sha256 or '')[:16]}..."
