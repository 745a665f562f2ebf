"""What settings and classes of 0.1.0 are called now, for one error that says so. Nothing here is an alias."""

# Keys of experiment files.
SETTINGS: dict[str, str] = {
    "data.init_args.shares": "data.init_args.split_ratios",
    "data.init_args.class_crops": "data.init_args.class_balanced_crops",
    "data.init_args.scale": "data.init_args.scale_range",
    "data.init_args.fit": "data.init_args.large_scale_jitter",
}

# Class paths. Classes that only moved are not listed: they are found by their names.
CLASSES: dict[str, str] = {
    "lightning_seg.callbacks.gap.Gap": "lightning_seg.callbacks.overfitting.OverfittingMonitor",
    "lightning_seg.callbacks.kernels.Kernels": "lightning_seg.callbacks.cudnn.CudnnBenchmark",
    "lightning_seg.callbacks.objects.ObjectPredictions": "lightning_seg.callbacks.prediction_writer.ObjectWriter",
    "lightning_seg.callbacks.predictions.Predictions": "lightning_seg.callbacks.prediction_writer.PredictionWriter",
    "lightning_seg.callbacks.saving.Saving": "lightning_seg.callbacks.checkpointing.Checkpointing",
    "lightning_seg.losses.Dice": "lightning_seg.training.losses.DiceLoss",
    "lightning_seg.losses.Focal": "lightning_seg.training.losses.FocalLoss",
    "lightning_seg.losses.Jaccard": "lightning_seg.training.losses.JaccardLoss",
    "lightning_seg.losses.Lovasz": "lightning_seg.training.losses.LovaszLoss",
    "lightning_seg.losses.Sum": "lightning_seg.training.losses.CompoundLoss",
    "lightning_seg.losses.Tversky": "lightning_seg.training.losses.TverskyLoss",
    "lightning_seg.networks.backbone.Backbone": "lightning_seg.networks.backbones.timm_backbone.TimmBackbone",
    "lightning_seg.networks.plain.PlainEncoder": "lightning_seg.networks.backbones.plain.PlainBackbone",
    "lightning_seg.networks.unet.UNet2015": "lightning_seg.networks.unet.ClassicUNet",
    "lightning_seg.schedules.Step": "lightning_seg.training.schedules.MultiStep",
}
