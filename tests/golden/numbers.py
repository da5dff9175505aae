"""What official DiT, MDT v1 and MDT v2 code printed on the synthetic weights of `synthetic.py`."""

S = {"hidden_size": 384, "depth": 12, "num_heads": 6, "patch_size": 2}
MDT = {**S, "positions": "learned", "relative_bias": True}
MASKED = [{"tokens": "all"}, {"tokens": "kept"}]
CONFIGS = {
    "dit": {"model": S},
    "mdt": {
        "model": {**MDT, "decoder_depth": 2},
        "masking": {"views": MASKED, "fill": "interpolator", "restore_at": -2},
    },
    "mdtv2": {
        "model": {**MDT, "decoder_depth": 6, "long_skips": True, "input_skip": True},
        "masking": {"views": MASKED, "fill": "interpolator", "restore_at": -6},
        "objective": {"kind": "epsilon", "weighting": "min_snr"},
    },
}
# name, kept tokens (0: all), mean, std, first three, last
FORWARD = [
    ("dit", 0, 0.162113, 2.217339, (0.12738, -2.74594, 0.10760), 2.49693),
    ("mdt", 0, 0.162423, 2.213290, (0.10829, -2.72201, 0.08885), 2.49976),
    ("mdt", 179, 0.155231, 2.221777, (0.11063, -2.72441, 0.08583), 2.43792),
    ("mdtv2", 0, 0.057545, 2.033165, (0.87812, -2.40585, 0.86470), 2.42114),
    ("mdtv2", 153, 0.055526, 2.029643, (0.91628, -2.44425, 0.89501), 2.38959),
]
# The published half of the batch: conditional output with guidance on three channels.
GUIDED = [
    ("dit", 1.5, None, 0.145443, 2.362096, (0.05345, -2.96450, 0.02664), 5.02279),
    ("mdt", 3.8, 4.0, 0.153608, 2.402769, (-0.31291, -3.94362, -0.36878), 5.03430),
    ("mdtv2", 3.8, 4.0, 0.063257, 2.172856, (0.77246, -2.33735, 0.85327), 5.04569),
]

# name, kept tokens (0: all), then per sample at t = 0, 60, 900: mse, vb
LOSSES = [
    ("mdt", 0, (6.4594, 5.18642, 5.63463), (4.26851, 0.11809, 0.07464)),
    ("mdt", 179, (6.46037, 5.28612, 6.24382), (4.33389, 0.12033, 0.08271)),
    ("mdtv2", 0, (0.00274, 0.92442, 5.80418), (4.01326, 0.09728, 0.07689)),
    ("mdtv2", 153, (0.00273, 0.91979, 5.87183), (3.99844, 0.09679, 0.07778)),
]

# name, size, decoder blocks, parameters at 256 px with 1,000 classes
PARAMETERS = [
    ("dit", "s", 0, 32_963_360),
    ("dit", "b", 0, 130_512_416),
    ("dit", "l", 0, 458_102_816),
    ("dit", "xl", 0, 675_129_632),
    ("mdt", "s", 2, 35_797_208),
    ("mdt", "b", 2, 141_488_528),
    ("mdt", "l", 2, 477_641_312),
    ("mdt", "xl", 2, 699_778_144),
    ("mdtv2", "s", 4, 38_159_576),
    ("mdtv2", "b", 4, 150_931_856),
    ("mdtv2", "l", 4, 507_015_776),
    ("mdtv2", "xl", 4, 742_263_904),
    ("mdtv2", "s", 6, 38_454_872),
    ("mdtv2", "b", 6, 152_112_272),
    ("mdtv2", "l", 6, 509_113_952),
    ("mdtv2", "xl", 6, 744_919_264),
]
SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16)}
