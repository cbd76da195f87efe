"""A first convolution that is computed from the training images instead of learned."""

import torch
from torch import Tensor, nn

# Keeps components that hardly vary from being blown up (Jordan's value, for pixels of unit spread).
_SMALLEST_VARIANCE = 5e-4


class WhiteningConvolution(nn.Conv2d):
    """A fixed convolution whose filters are the principal components of small patches.

    Its outputs are uncorrelated and of one size, which the layers behind would else have to learn
    (Page, How to Train Your ResNet 8, 2019; Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single
    GPU, arXiv:2404.00498). Each component comes with both signs, for the activation behind. Only
    the bias is learned.

    Args:
        channels: of the images.
        kernel_size: height and width of the patches, in pixels.
        stride: from one patch to the next, in pixels.
    """

    def __init__(self, channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(channels, 2 * channels * kernel_size**2, kernel_size, stride)
        self.weight.requires_grad_(False)

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Compute the filters.

        Args:
            images: normalised float [n, channels, height, width].
        """
        size, step = self.kernel_size[0], self.stride[0]
        patches = images.unfold(2, size, step).unfold(3, size, step).permute(0, 2, 3, 1, 4, 5)
        patches = patches.reshape(-1, self.weight[0].numel()).double()
        variances, components = torch.linalg.eigh(patches.T.cov(correction=0))
        filters = (components / (variances.clamp(min=0) + _SMALLEST_VARIANCE).sqrt()).T
        filters = filters.float().view(-1, *self.weight.shape[1:])
        self.weight.copy_(torch.cat([filters, -filters]))
