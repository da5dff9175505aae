"""May a number stand beside published ones? A rule, applied without mercy."""

from dataclasses import dataclass

# Both families of tables score 50,000 samples.
PUBLISHED_COUNT = 50_000


@dataclass(frozen=True)
class Conditions:
    """How the numbers came to be."""

    extractor: str
    resize: str
    num_samples: int
    reference_is_adm: bool
    reference_origin_known: bool
    jpeg_samples: int


@dataclass(frozen=True)
class Stamp:
    """Whether the numbers may stand in one family of tables, why not, and what is left to check."""

    comparable: bool
    why_not: tuple[str, ...]
    condition: str


def adm_stamp(conditions: Conditions) -> Stamp:
    """ImageNet tables made with the evaluator of Dhariwal & Nichol 2021 (FID, IS, P/R)."""
    why_not = _common(conditions)
    if conditions.extractor == "inception" and conditions.resize != "legacy_tensorflow":
        why_not.append(f"resizing is {conditions.resize}, those tables use legacy_tensorflow")
    if not conditions.reference_is_adm:
        why_not.append("the reference is not one of ADM's npz files (arr_0, mu, sigma, mu_s)")
    return Stamp(
        not why_not, tuple(why_not), "labels must be drawn uniformly at random, as in those tables"
    )


def clean_fid_stamp(conditions: Conditions) -> Stamp:
    """Tables made with clean-fid in its mode `clean` (FID, KID)."""
    why_not = _common(conditions)
    if conditions.extractor == "inception" and conditions.resize != "clean":
        why_not.append(f"resizing is {conditions.resize}, those tables use clean")
    if not conditions.reference_origin_known:
        why_not.append("the reference file does not say how it was made")
    return Stamp(
        not why_not, tuple(why_not), "the table must name the same reference images and resolution"
    )


def _common(conditions: Conditions) -> list[str]:
    reasons = []
    if conditions.extractor != "inception":
        reasons.append(f"the extractor is {conditions.extractor}, not inception")
    if conditions.num_samples != PUBLISHED_COUNT:
        reasons.append(f"{conditions.num_samples:,} samples were scored, not {PUBLISHED_COUNT:,}")
    if conditions.jpeg_samples:
        reasons.append(f"{conditions.jpeg_samples:,} samples are JPEG or lossy WebP")
    return reasons
