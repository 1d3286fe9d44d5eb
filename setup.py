"""
What pyproject.toml cannot say: an installed package carries the folder of models within itself.

In the source tree, and so in an editable install, the models stand beside the package.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithModels(build_py):
    """Copies ``models`` to where `urlguard.classify.model.folder` looks first."""

    def run(self) -> None:
        """Build as usual, then add the models."""
        super().run()
        if not self.editable_mode:
            to = Path(self.build_lib, "urlguard", "models")
            shutil.rmtree(to, ignore_errors=True)
            shutil.copytree(Path(__file__).with_name("models"), to)


setup(cmdclass={"build_py": WithModels})
