"""Generates volattach/v1/volattach_pb2.py and its type hints at each build, so that proto/ stays the one source of the types."""

from importlib.resources import files

from grpc_tools import protoc
from setuptools import setup
from setuptools.command.build_py import build_py

PROTO = "volattach/v1/volattach.proto"


class Build(build_py):
    def run(self) -> None:
        super().run()
        well_known = files("grpc_tools") / "_proto"
        out = self.build_lib
        arguments = ["protoc", "-Iproto", f"-I{well_known}", f"--python_out={out}", f"--pyi_out={out}", PROTO]
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"protoc cannot compile proto/{PROTO}: its messages are above")


setup(cmdclass={"build_py": Build})
