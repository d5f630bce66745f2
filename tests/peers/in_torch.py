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
            return F.conv2d(h, _kernels(W, module), b, stride=module.stride, padding=module.pad)
        case nn.BatchNorm():
            gamma, beta = _columns(next(matrices))
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
    """Weights and bias of a matrix; what `leaves` made is split already."""
    if isinstance(M, tuple):
        return M
    return (M[:, :-1], M[:, -1]) if module.bias else (M, None)


def _columns(M):
    return M if isinstance(M, tuple) else M.T


def _kernels(W, module):
    return W.reshape(module.out, module.inp, module.kernel, module.kernel)


def leaves(modules, matrices, memory_format=torch.contiguous_format):
    """A pair of weights and bias for each of ``matrices``, as PyTorch holds them: tensors of their own that take gradients."""
    for module in modules:
        if isinstance(module, nn.Residual):
            yield from leaves(module.body.modules, matrices, memory_format)
        elif isinstance(module, nn.Dense | nn.Conv2d):
            W, b = _split(next(matrices), module)
            own = _kernels(W, module).clone(memory_format=memory_format) if isinstance(module, nn.Conv2d) else W.contiguous()
            yield own.requires_grad_(), None if b is None else b.contiguous().requires_grad_()
        elif isinstance(module, nn.BatchNorm):
            yield tuple(column.contiguous().requires_grad_() for column in _columns(next(matrices)))


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
