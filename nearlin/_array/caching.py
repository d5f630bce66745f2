"""Properties that are computed once."""


class cached_property:
    """As `functools.cached_property`, without the lock that Python 3.11 holds, for all objects of a class, while one computes.

    What waits for other ranks while it is computed would wait for ever where these are threads of the same process.
    """

    def __init__(self, f):
        self._f, self.__doc__ = f, f.__doc__

    def __set_name__(self, owner, name):
        self._name = name

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        value = vars(instance)[self._name] = self._f(instance)
        return value
