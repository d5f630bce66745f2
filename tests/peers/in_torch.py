"""The library's networks in PyTorch's own operations."""

import numpy as np
import torch
import torch.nn.functional as F

from nearlin import nn


def forward(modules, matrices, h):
    """The outputs of ``modules`` on h; ``matrices`` is an iterator over theirs."""
    for module in modules:
        h = _through(module, matrices, h)
    return h


def _through(module, matrices, h):
    match module:
        case nn.Dense():
            return F.linear(h, *_split(next(matrices), module))
        case nn.Conv2d():
            W, b = _split(next(matrices), module)
            kernels = W.reshape(module.out, module.inp, module.kernel, module.kernel)
            return F.conv2d(h, kernels, b, stride=module.stride, padding=module.pad)
        case nn.BatchNorm():
            gamma, beta = next(matrices).T
            s = module.statistics
            given = (None, None) if s is None else (torch.as_tensor(s.mean), torch.as_tensor(s.variance))
            return F.batch_norm(h, *given, gamma, beta, training=s is None, eps=module.epsilon)
        case nn.Elementwise():
            return getattr(F, module.phi.name)(h) if module.phi.name == "softplus" else getattr(torch, module.phi.name)(h)
        case nn.MaxPool():
            return F.max_pool2d(h, module.kernel, module.stride, module.pad)
        case nn.AvgPool():
            return F.avg_pool2d(h, module.kernel, module.stride, module.pad)
        case nn.GlobalAvgPool():
            return h.mean((2, 3))
        case nn.Flatten():
            return h.flatten(1)
        case nn.Residual():
            short = h if module.shortcut is None else _zero_padded(h)
            return forward(module.body.modules, matrices, h) + short
    raise TypeError(f"no PyTorch for {type(module).__name__}")


def _split(M, module):
    return (M[:, :-1], M[:, -1]) if module.bias else (M, None)


def _zero_padded(h):
    front = h.shape[1] // 2
    return F.pad(h[:, :, ::2, ::2], (0, 0, 0, 0, front, h.shape[1] - front))


def loss(kind, f, y):
    """Mean over samples, summed over outputs."""
    if kind == "squared":
        return 0.5 * ((f - y) ** 2).sum() / len(f)
    if kind == "softmax-cross-entropy":
        return F.cross_entropy(f, y)
    return F.binary_cross_entropy_with_logits(f, y, reduction="sum") / len(f)


def flat(matrices):
    """One vector of all entries, in order, as NumPy."""
    return np.concatenate([np.asarray(W.detach() if isinstance(W, torch.Tensor) else W).ravel() for W in matrices])
