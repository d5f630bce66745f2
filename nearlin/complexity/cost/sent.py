"""Bytes that a step hands to every rank, by the name of the call, in closed form; sums of single numbers are left out.

By neurons, in numbers: n c a forward pass and a product; n² c the Gram matrices, n² and a border of n a sketched one; none of the
closed-form kernel. By samples: n c the outputs, and a product J v; p a gradient, and a product Jᵀu; o (o + 1)/2 + D (D + 1)/2 the
statistics of a layer (o, D), and its inverses o² + D², beside the words that they are packed in.
"""


def by_neurons(n, c, item, forwards, products=0, gram=0, sketched=0, straddled=False):
    """Of a step on the two-layer network with its neurons split.

    Parameters
    ----------
    n, c, item : int
        Samples, outputs, bytes of a number.
    forwards, products : int
        Forward passes; products with J, Jᵀ or J Jᵀ.
    gram, sketched : int
        Matrices (n, n) that are formed from all neurons, and from sketched ones.
    straddled : bool
        Whether the sketch sums groups of several neurons, which may lie on two ranks.
    """
    sizes = {
        "forward": forwards * n * c,
        "product": products * n * c,
        "Gram matrix": gram * n * n,
        "sketched Gram matrix": sketched * n * n,
        "border": sketched * straddled * n,
    }
    return {name: item * size for name, size in sizes.items() if size}


def by_samples(n, shapes, item, forwards, products=0, statistics="", inverses=""):
    """Of a step on a perceptron with its samples split.

    Parameters
    ----------
    n, shapes, item : int, list of (int, int), int
        Samples, (o, D) of every layer, bytes of a number.
    forwards, products : int
        Forward passes; products with J and Jᵀ.
    statistics : str
        ``"factors"``, ``"diagonal"``, or none.
    inverses : str
        ``"inverses"`` of the factors, their ``"eigenvectors"`` and eigenvalues, or none.
    """
    c, p = shapes[-1][0], sum(o * D for o, D in shapes)
    triangles = sum(k * (k + 1) // 2 for shape in shapes for k in shape)
    squares, sides = sum(k * k for shape in shapes for k in shape), sum(map(sum, shapes))
    sizes = {
        "outputs": forwards * n * c,
        "grads": p,
        "statistics": {"": 0, "factors": triangles, "diagonal": p}[statistics],
        "factors": {"": 0, "inverses": squares, "eigenvectors": squares + sides}[inverses],
        "matvec": products * n * c,
        "rmatvec": products * p,
    }
    return {name: item * size for name, size in sizes.items() if size}
