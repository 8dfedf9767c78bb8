"""Makes gen/ from proto/ when the project is built or installed.

gen/ is never edited and never committed: `pip install -e .` and `make gen` both come here. The generated modules
are written into a fresh folder that then takes the place of the old one, so that a deleted proto leaves nothing
behind and an interrupted build leaves no half.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent


def generate(root: Path = ROOT) -> None:
    """Writes gen/: message and service modules, typed stubs, and hither/contract.binpb, the descriptors of the
    contract with comments.

    Raises RuntimeError if protoc refuses.
    """
    target = root / "gen"
    with tempfile.TemporaryDirectory(dir=root, prefix=".gen-") as fresh:
        out = Path(fresh) / "gen"
        out.mkdir()
        proto = root / "proto"
        sources = [str(path.relative_to(proto)) for path in sorted((proto / "hither").rglob("*.proto"))]
        descriptors = [
            f"--descriptor_set_out={out / 'contract.binpb'}",
            "--include_imports",
            "--include_source_info",
        ]
        _protoc(proto, out, [*descriptors, *sources, "buf/validate/validate.proto"])
        # Apart from the contract: these are no part of what it offers.
        etcd = [
            str(path.relative_to(proto / "third_party")) for path in sorted(proto.glob("third_party/etcd/**/*.proto"))
        ]
        _protoc(proto, out, etcd)
        (out / "contract.binpb").rename(out / "hither" / "contract.binpb")
        (out / "hither" / "py.typed").touch()
        shutil.rmtree(target, ignore_errors=True)
        out.rename(target)


def _protoc(proto: Path, out: Path, arguments: list[str]) -> None:
    import grpc_tools
    from grpc_tools import protoc

    plugins = [f"--plugin=protoc-gen-{name}={_plugin(name)}" for name in ("mypy", "mypy_grpc")]
    status = protoc.main(
        [
            "protoc",
            f"-I{proto / 'third_party'}",
            f"-I{proto}",
            f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
            *plugins,
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out=quiet:{out}",
            f"--mypy_grpc_out=quiet:{out}",
            *arguments,
        ]
    )
    if status != 0:
        raise RuntimeError(f"protoc ended with {status}")


def _plugin(name: str) -> str:
    found = shutil.which(f"protoc-gen-{name}", path=str(Path(sys.executable).parent)) or shutil.which(
        f"protoc-gen-{name}"
    )
    if found is None:
        raise RuntimeError(f"protoc-gen-{name} is missing: install mypy-protobuf")
    return found


class GenerateProtos(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling's hook: generates before anything is packed or linked."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before each build."""
        generate(Path(self.root))


if __name__ == "__main__":
    generate()
