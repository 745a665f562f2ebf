"""Old words of settings and class paths, and what they are called now."""

SETTINGS: dict[str, str] = {
    "data.init_args.shares": "data.init_args.split_ratios",
    "data.init_args.class_crops": "data.init_args.class_balanced_crops",
    "data.init_args.scale": "data.init_args.scale_range",
    "data.init_args.fit": "data.init_args.large_scale_jitter",
}

CLASSES: dict[str, str] = {}
