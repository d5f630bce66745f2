"""Estimators in scikit-learn's shape, fitted by the optimizers of this library: change the import, get a second-order solver.

Needs scikit-learn, which nothing else in the library imports: ``pip install "nearlin[sklearn]"``.
"""

try:
    import sklearn
except ImportError as error:
    raise ImportError('nearlin.sklearn needs scikit-learn 1.7 or later: pip install "nearlin[sklearn]"') from error

if tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 7):
    raise ImportError(f"nearlin.sklearn needs scikit-learn 1.7 or later; found {sklearn.__version__}")

from nearlin.sklearn.estimators import MLPClassifier, MLPRegressor
from nearlin.sklearn.solvers import SOLVERS, Solver

__all__ = ["SOLVERS", "MLPClassifier", "MLPRegressor", "Solver"]
