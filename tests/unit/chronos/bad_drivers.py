"""OpenCL drivers for tests: those of the machine, and beside them one that hangs or crashes."""

from pathlib import Path

from tests.unit.chronos.c_libraries import build

_MACHINES = Path("/etc/OpenCL/vendors")


class BadDriver:
    """A folder of drivers; `order` says what the bad one does from the next look on."""

    def __init__(self, folder: Path, *, alone: bool = False) -> None:
        """`alone`: without the machine's own drivers."""
        folder.mkdir()
        vendors = folder / "vendors"
        vendors.mkdir()
        (vendors / "bad.icd").write_text(f"{build('bad_icd', folder)}\n")
        if not alone:
            for icd in _MACHINES.glob("*.icd"):
                (vendors / icd.name).write_bytes(icd.read_bytes())
        self._order = folder / "order"
        self.environment = {
            "OCL_ICD_VENDORS": str(vendors),
            "OCL_ICD_FILENAMES": "",
            "BAD_ICD": str(self._order),
        }

    def order(self, what: str) -> None:
        """ "hang", "crash" or "" (it shows no device)."""
        self._order.write_text(what)
