"""What official code printed on the synthetic weights of `synthetic.py`, and what it is made of."""

S = {"hidden_size": 384, "depth": 12, "num_heads": 6, "patch_size": 2}
MDT = {**S, "positions": "learned", "relative_bias": True}
MASKED = [{"tokens": "all"}, {"tokens": "kept"}]
EPSILON = {"kind": "epsilon", "learned_variance": False}
TOKENS = {
    "hidden_size": 512,
    "depth": 13,
    "num_heads": 8,
    "condition": "tokens",
    "positions": "random",
    "long_skips": True,
}
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
    "maskdit": {
        "model": {**S, "null_label": "zeros", "narrow_decoder": {"depth": 8}},
        "objective": {"kind": "edm"},
        "sampling": {"solver": "heun", "steps": 4},
        "masking": {
            "views": [
                {
                    "tokens": "kept",
                    "terms": [
                        {"region": "kept"},
                        {"region": "dropped", "target": "noisy", "normalise": "patch"},
                    ],
                }
            ]
        },
    },
    "uvit": {"model": {**TOKENS, "patch_size": 2, "output_conv": True}, "objective": EPSILON},
    "maskdm": {
        "model": {**TOKENS, "patch_size": 4},
        "objective": EPSILON,
        "data": {"conditional": False},
        "masking": {
            "views": [{"tokens": "kept", "terms": [{"region": "kept"}]}],
            "selector": {"kind": "block", "size": 4},
            "fill": "nothing",
        },
    },
    "lmd": {
        "model": {
            "hidden_size": 768,
            "depth": 12,
            "num_heads": 12,
            "patch_size": 4,
            "condition": "none",
            "narrow_decoder": {"depth": 8, "subtract_positions": True},
        },
        "objective": {"kind": "reconstruction"},
        "data": {"conditional": False},
        "masking": {
            "views": [
                {
                    "tokens": "kept",
                    "terms": [
                        {"region": "dropped", "target": "clean", "normalise": "patch"},
                        {"region": "dropped", "target": "clean"},
                    ],
                }
            ]
        },
    },
    "lightningdit": {
        "model": {**S, "norm": "rms", "mlp": "swiglu", "rope": True},
        "objective": {"kind": "flow"},
        "sampling": {"solver": "euler"},
    },
    "jit": {
        "model": {
            **{**S, "norm": "rms", "mlp": "swiglu", "rope": True, "qk_norm": True},
            **{"patch_size": 16, "patch_bottleneck": 128},
        },
        "objective": {
            **{"kind": "flow", "predict": "x", "noise_scale": 2.0},
            **{"time_mean": 0.8, "time_std": 0.8},
        },
        "data": {"conditional": False},
        "sampling": {"solver": "heun", "steps": 4},
    },
}
TITLES = {
    "dit": "DiT-S/2",
    "mdt": "MDT v1-S/2",
    "mdtv2": "MDT v2-S/2",
    "maskdit": "MaskDiT-S/2",
    "uvit": "U-ViT-S/2",
    "maskdm": "MaskDM small, 64 px",
    "lmd": "LMD base, patch 4",
    "lightningdit": "LightningDiT-S/2",
    "jit": "JiT-S/16, 64 px, no classes",
}
# Mean, population standard deviation, first three values and last of what each case answers.
OUTPUTS = {
    ("dit", "all tokens"): (0.162113, 2.217339, 0.12738, -2.74594, 0.10760, 2.49693),
    ("dit", "guided 1.5"): (0.145443, 2.362096, 0.05345, -2.96450, 0.02664, 5.02279),
    ("mdt", "all tokens"): (0.162423, 2.213290, 0.10829, -2.72201, 0.08885, 2.49976),
    ("mdt", "179 of 256 kept"): (0.155231, 2.221777, 0.11063, -2.72441, 0.08583, 2.43792),
    ("mdt", "guided 3.8, power 4"): (0.153608, 2.402769, -0.31291, -3.94362, -0.36878, 5.03430),
    ("mdtv2", "all tokens"): (0.057545, 2.033165, 0.87812, -2.40585, 0.86470, 2.42114),
    ("mdtv2", "153 of 256 kept"): (0.055526, 2.029643, 0.91628, -2.44425, 0.89501, 2.38959),
    ("mdtv2", "guided 3.8, power 4"): (0.063257, 2.172856, 0.77246, -2.33735, 0.85327, 5.04569),
    ("maskdit", "D, all tokens"): (0.043494, 1.018354, -0.95380, -0.22338, -0.25996, -1.18920),
    ("maskdit", "D, guided 1.5"): (0.050975, 0.948786, 0.19551, -0.75627, 0.51364, -1.16357),
    ("maskdit", "D, 128 of 256 kept"): (
        *(0.033475, 1.005394, -1.03493, -0.16892, -0.34063, -1.22002),
    ),
    ("maskdit", "Heun, 4 steps"): (0.198357, 3.984993, -0.58429, -2.63976, 1.20011, -5.02179),
    ("maskdit", "Heun, 4 steps, guided 1.5"): (
        *(0.198834, 3.988377, -0.38224, -2.68949, 1.40073, -4.87420),
    ),
    ("dit", "DDPM-250 mean, steps 100 and 249"): (
        *(-0.016889, 1.195512, -2.04204, 0.58448, -1.08151, -0.95387),
    ),
    ("dit", "DDPM-250 log variance, same"): (
        *(-3.003801, 0.446635, -3.46240, -3.44551, -3.46229, -2.55723),
    ),
    ("uvit", "all tokens"): (0.014939, 0.348755, 0.32741, -0.63101, 0.43238, -0.27619),
    ("maskdm", "all tokens"): (0.024965, 1.215668, 2.53328, -0.62280, -1.08564, -1.19024),
    ("maskdm", "2 of 16 blocks kept"): (0.024976, 1.215586, 2.53344, -1.24167, 0.74299, -1.19831),
    ("lmd", "29 of 49 kept"): (0.023627, 1.218462, 2.54677, -1.24585, 0.81715, -0.74191),
    ("lightningdit", "all tokens"): (0.18128, 1.82528, -1.06808, -1.54711, -1.01102, 1.29331),
    ("lightningdit", "guided 1.5"): (0.12780, 2.01109, -1.19840, -1.69313, -1.13849, -0.27958),
    ("jit", "all tokens"): (0.00350, 1.50583, 0.53376, 0.75928, 2.93374, -0.91596),
    ("jit", "Heun, 4 steps"): (0.00394, 1.43455, 0.51438, 0.78040, 2.92187, -0.96594),
}

# Per sample at t = 0, 60, 900: mse, then vb. DSM and MAE: per sample at sigma = 0.3, 5.
LOSSES = {
    ("mdt", "mse and vb, all tokens"): (6.4594, 5.18642, 5.63463, 4.26851, 0.11809, 0.07464),
    ("mdt", "mse and vb, masked"): (6.46037, 5.28612, 6.24382, 4.33389, 0.12033, 0.08271),
    ("mdtv2", "mse and vb, all tokens"): (0.00274, 0.92442, 5.80418, 4.01326, 0.09728, 0.07689),
    ("mdtv2", "mse and vb, masked"): (0.00273, 0.91979, 5.87183, 3.99844, 0.09679, 0.07778),
    ("maskdit", "DSM of kept, MAE of dropped"): (4.60629, 8.84607, 0.37277, 1.85180),
    ("lmd", "batch loss, normalised and raw"): (2.460677, 2.811156),
    ("jit", "loss at t = 0.95, 0.5, 0.01"): (3.98226, 14.05601, 1397.18030),
}

SIZES = {
    "s": (384, 12, 6),
    "b": (768, 12, 12),
    "l": (1024, 24, 16),
    "xl": (1152, 28, 16),
    "h": (1280, 32, 16),
}
# Size, then official parameters at 256 px with 1,000 classes.
DIT = {"s": 32_963_360, "b": 130_512_416, "l": 458_102_816, "xl": 675_129_632}
DIT_TRAINABLE = {"s": 32_865_056, "b": 130_315_808, "l": 457_840_672, "xl": 674_834_720}
MDT_V1 = {"s": 35_797_208, "b": 141_488_528, "l": 477_641_312, "xl": 699_778_144}
MDT_V2_4 = {"s": 38_159_576, "b": 150_931_856, "l": 507_015_776, "xl": 742_263_904}
MDT_V2_6 = {"s": 38_454_872, "b": 152_112_272, "l": 509_113_952, "xl": 744_919_264}
MASKDIT = {
    "s": 68_346_256,
    "b": 175_909_648,
    "l": 510_176_272,
    "xl": 730_541_200,
    "h": 1_010_002_192,
}
MASKDIT_TRAINABLE = {
    "s": 68_116_880,
    "b": 175_581_968,
    "l": 509_783_056,
    "xl": 730_115_216,
    "h": 1_009_543_440,
}
# Keys of the model, latents, classes, official parameters.
UVIT = {
    "S, 64 px pixels": ({"patch_size": 4}, (3, 64, 64), 0, 44_292_228),
    "L": ({"hidden_size": 1024, "depth": 21, "num_heads": 16}, (4, 32, 32), 1000, 286_763_172),
    "H": (
        {"hidden_size": 1152, "depth": 29, "num_heads": 16, "output_conv": False},
        (4, 32, 32),
        1000,
        500_832_016,
    ),
}
MASKDM = {
    "small, 64 px": ({}, (3, 64, 64), 0, 44_292_144),
    "small, 256 px": ({}, (3, 256, 256), 0, 46_258_224),
    "base, 256 px": ({"hidden_size": 768, "num_heads": 12}, (3, 256, 256), 0, 102_417_456),
}
LMD = {"patch 4": (4, 110_817_856, 110_753_856), "patch 7": (7, 110_944_708, None)}
# With 1,000 classes at 256 px.
LIGHTNINGDIT = {"b": 130_531_600, "l": 458_120_176, "xl": 675_219_856}
# Size, then channels of the bottleneck and parameters without classes.
JIT = {"b": (128, 130_526_976), "l": (128, 458_082_016), "h": (256, 951_519_808)}
