"""The choice of convolution kernels on a GPU."""

import lightning as L
import torch


class CudnnBenchmark(L.Callback):
    """Let cuDNN try its kernels in training, whose crops have one size, but not where sizes vary.

    In evaluation images keep their own sizes, and every new size would be tried anew.

    Examples:
        >>> callback = CudnnBenchmark()
        >>> callback.on_train_start(None, None)
        >>> torch.backends.cudnn.benchmark
        True
        >>> callback.on_train_end(None, None)
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to try."""
        torch.backends.cudnn.benchmark = True

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take what cuDNN thinks best."""
        torch.backends.cudnn.benchmark = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on trying in training."""
        torch.backends.cudnn.benchmark = trainer.state.fn == "fit" and not trainer.sanity_checking

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave nothing behind."""
        torch.backends.cudnn.benchmark = False
