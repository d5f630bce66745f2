"""How large the Jacobian of the wide two-layer network is, and the `Work` of what is asked of it: what planners read of it.

Arrays are looked at for their shapes and dtypes alone.
"""

import math
from functools import cached_property

from nearlin.linalg import Work
from nearlin.nn.jacobian import Jacobian
from nearlin.nn.two_layer_blocks import samples_of_tile, tiles_of_samples, undivided


class TwoLayerSizes(Jacobian):
    """Sizes and work of `TwoLayerJacobian`, from whose fields they follow."""

    layered = False

    @property
    def samples(self):
        """Number of samples n."""
        return self.x.shape[0]

    @property
    def shape(self):
        """(n c, m d)."""
        return self.x.shape[0] * self.outputs, self._neurons * self.W.shape[1]

    @property
    def _neurons(self):
        """m."""
        return self.width or self.W.shape[0]

    @property
    def factor_shapes(self):
        """((m, d),)."""
        return ((self._neurons, self.W.shape[1]),)

    @property
    def block_diagonal(self):
        """Whether J Jᵀ has a block for each of several outputs, and zeros elsewhere."""
        return self.outputs > 1

    @property
    def _scale(self):
        return 1 / math.sqrt(self._neurons / self.outputs)

    @property
    def _walk(self):
        """Of a walk over the whole layer: how many blocks there are, and neurons in the first."""
        return len(self.blocks), self.blocks[0].stop

    @cached_property
    def _tiles(self):
        """Slices of samples."""
        return tiles_of_samples(self.x, self._walk[1]) if self.run is None else self.run

    @property
    def dtype(self):
        """Of the inputs."""
        return self.x.dtype

    def _slope_work(self):
        """The `Work` of phi' of all neurons: 2 n m d flops, but for ReLU, whose masks are taken for kept."""
        return Work(thin=0 if self.phi.name == "relu" else 2 * self.samples * self.shape[1])

    def product_work(self):
        """The `Work` of one product with J Jᵀ: 4 n m d flops."""
        passes, tiles = (1, 1) if undivided(self.x) else (2, math.ceil(self.samples / samples_of_tile(self.x, self._walk[1])))
        return passes * self._slope_work() + Work(thin=4 * self.samples * self.shape[1], calls=10 * self._walk[0] * tiles)

    def gram_work(self):
        """The `Work` of `class_grams`, and of unpacking the masks."""
        n, c, ((m, d),) = self.samples, self.outputs, self.factor_shapes
        update = Work(matmul=n * n * (m + d), memory=2 * self.item * n * (m + 3 * n * c), calls=8 * self._walk[0])
        return self._slope_work() + update

    def class_work(self, mean):
        """The `Work` of `mean_gram`, or of `class_grams`."""
        return self.pooled().gram_work() if mean else self.gram_work()

    def sketch_work(self, s):
        """The `Work` of `NeuronSigns`, pooled."""
        n, ((m, d),) = self.samples, self.factor_shapes
        sums = math.ceil(m / max(1, m // s))  # neurons in equal groups: s or more sums
        return self.sketch_rows_work(s) + Work(matmul=n * n * (sums + d), memory=8 * self.item * n * n)

    def sketch_rows_work(self, s):
        """The `Work` of its sums over neurons."""
        n, m = self.samples, self._neurons
        return self._slope_work() + Work(matmul=2 * n * m, memory=self.item * n * m, calls=12 * self._walk[0])

    def kernel_work(self):
        """The `Work` of `kernel_gram`."""
        n, d = self.samples, self.W.shape[1]
        return Work(matmul=2 * n * n * d, memory=10 * self.item * n * n, calls=20)
