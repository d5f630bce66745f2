"""scikit-learn's own checks of both estimators, in a process that has SCIPY_ARRAY_API set before SciPy is imported."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("sklearn", minversion="1.7")

from sklearn.utils.estimator_checks import estimator_checks_generator

from nearlin.sklearn import MLPRegressor

CHECKS = """
import json, sys, warnings
warnings.simplefilter("ignore")
from sklearn.utils.estimator_checks import check_estimator
from nearlin.sklearn import MLPClassifier, MLPRegressor

estimator = {"classifier": MLPClassifier, "regressor": MLPRegressor}[sys.argv[1]]()
results = check_estimator(estimator, on_skip=None, on_fail=None)
print(json.dumps([(r["check_name"], r["status"], str(r["exception"])) for r in results]))
"""

QUICK = ("check_sample_weight_equivalence_on_dense_data", "check_n_features_in_after_fitting", "check_estimators_pickle")
ABSENT = ("cupy", "cuda", "XPU", "MPS", "dpnp", "torch", "jax", "array_api_strict")  # backends that a machine may lack
LACKS = ("does not have a decision_function method",)  # scikit-learn's perceptrons have none either


def outcomes(kind):
    env = {**os.environ, "SCIPY_ARRAY_API": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", CHECKS, kind], capture_output=True, text=True, env=env, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_all_checks_pass_and_none_is_expected_to_fail(kind):
    """What is skipped is a backend that this machine lacks, or a method that the estimator does not have."""
    found = outcomes(kind)
    assert [one for one in found if one[1] not in ("passed", "skipped")] == []
    assert sum(status == "passed" for _, status, _ in found) > 55
    for name, status, reason in found:
        if status == "skipped":
            assert any(words in reason for words in (*ABSENT, *LACKS)), (name, reason)


def test_some_checks_pass():
    for estimator, check in estimator_checks_generator(MLPRegressor()):
        if check.func.__name__ in QUICK:
            check(estimator)
