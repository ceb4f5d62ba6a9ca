"""The compiled kernel, an extension module with the stable ABI of Python 3.11. All else is in pyproject.toml.

Without a compiler the package installs all the same: workers then compute with numpy.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "fsd_core.kernel._kernel",
            ["fsd_core/kernel/kernel.c"],
            depends=["fsd_core/kernel/tile.h"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            extra_compile_args=["-O3", "-g0", "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
