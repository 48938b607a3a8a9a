"""The old SDK's client and packager, as far as others see them: what they send and what they read.

Written from what is known of it, with nothing of Cumulus in it, by an HTTP library of its own: it
stands for the programs that were never upgraded. What it did wrong is done so here.
"""

import inspect
import io
import json
import textwrap
import time
import uuid
import zipfile
from collections.abc import Callable
from typing import Any

import requests

#: Runs the function and says how it went by the files it leaves.
MAIN = """\
import json
import sys
import traceback

def main():
    try:
        with open("job_config.json") as f:
            config = json.load(f)
        import runtime
        from function import {name}
        result = {name}(*config.get("args", []), **config.get("kwargs", {{}}))
        try:
            json.dumps(result)
        except TypeError:
            result = str(result)
        with open("result.json", "w") as f:
            json.dump({{"success": True, "result": result}}, f)
    except Exception as e:
        with open("error.json", "w") as f:
            json.dump({{"success": False, "error": str(e), "type": type(e).__name__,
                       "traceback": traceback.format_exc()}}, f)
        print("Job failed:", e, file=sys.stderr)
        sys.exit(1)

if __name__ == "__main__":
    main()
"""
#: Every job needed torch.
RUNTIME = "import torch\nimport distributed_checkpointer\nRUNTIME = 'the old one'\n"
CHECKPOINTER = "import boto3\nimport torch\n"


class OldPackager:
    """`CodePackager`."""

    def package_function(
        self,
        func: Callable[..., Any],
        requirements: list[str] | None,
        job_id: str,
        args: list[Any] | None = None,
        **kwargs: Any,
    ) -> bytes:
        source = textwrap.dedent(inspect.getsource(func))
        config = {
            "job_id": job_id,
            "function_name": func.__name__,
            "args": args or [],
            "kwargs": kwargs,
        }
        return self._zip(
            {
                "main.py": MAIN.format(name=func.__name__),
                "function.py": source,
                "runtime.py": RUNTIME,
                "distributed_checkpointer.py": CHECKPOINTER,
                "requirements.txt": "\n".join(requirements or []),
                "job_config.json": json.dumps(config),
            }
        )

    def package_files(self, files: dict[str, str]) -> bytes:
        """As `package_directory`."""
        return self._zip(files)

    @staticmethod
    def _zip(files: dict[str, str]) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return buffer.getvalue()


class OldClient:
    """`CumulusClient` of the old SDK: one request after another, polling."""

    poll_s = 0.1

    def __init__(self, server_url: str, api_key: str | None = None) -> None:
        self.server_url = server_url.rstrip("/")
        self.session = requests.Session()
        if api_key:
            self.session.headers["Authorization"] = f"Bearer {api_key}"

    def close(self) -> None:
        self.session.close()

    def submit(
        self, code: bytes, gpu_memory: float = 0.5, duration: int = 3600, job_id: str | None = None
    ) -> dict[str, Any]:
        response = self.session.post(
            f"{self.server_url}/api/jobs",
            files={"code": ("code.zip", code, "application/zip")},
            data={
                "job_id": job_id or str(uuid.uuid4()),
                "gpu_memory": str(gpu_memory),
                "duration": str(duration),
            },
            timeout=30,
        )
        if response.status_code == 429:
            raise RuntimeError("Server is at capacity")
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def run(
        self,
        func: Callable[..., Any],
        gpu_memory: float = 0.5,
        duration: int = 3600,
        requirements: list[str] | None = None,
        timeout: float | None = None,
        args: list[Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        job_id = str(uuid.uuid4())
        code = OldPackager().package_function(func, requirements, job_id, args, **kwargs)
        return self.wait(self.submit(code, gpu_memory, duration, job_id)["job_id"], timeout)

    def wait(self, job_id: str, timeout: float | None = None) -> Any:
        began = time.monotonic()
        while True:
            status = self.get_job_status(job_id)
            if status["status"] == "completed":
                return self.results(job_id)["result"]
            if status["status"] == "failed":
                raise RuntimeError(f"Job failed: {status.get('error', 'Unknown error')}")
            if status["status"] == "timeout":
                raise TimeoutError("Job timed out")
            if status["status"] == "cancelled":
                raise RuntimeError("Job was cancelled")
            if timeout and time.monotonic() - began > timeout:
                raise TimeoutError("Client timeout exceeded")
            time.sleep(self.poll_s)

    def results(self, job_id: str) -> Any:
        return self._get(f"/api/jobs/{job_id}/results")

    def get_job_status(self, job_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = self._get(f"/api/jobs/{job_id}")
        return answer

    def list_jobs(self) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self._get("/api/jobs")
        return answer

    def get_server_info(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._get("/api/info")
        return answer

    def get_checkpoints(self, job_id: str) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self._get(f"/api/jobs/{job_id}/checkpoints")
        return answer

    def cancel_job(self, job_id: str) -> bool:
        return bool(self._post(f"/api/jobs/{job_id}/cancel").get("cancelled"))

    def pause_job(self, job_id: str) -> dict[str, Any]:
        return self._post(f"/api/jobs/{job_id}/pause")

    def resume_job(self, job_id: str) -> dict[str, Any]:
        return self._post(f"/api/jobs/{job_id}/resume")

    def delete_job(self, job_id: str) -> dict[str, Any]:
        response = self.session.delete(f"{self.server_url}/api/jobs/{job_id}", timeout=30)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def _get(self, path: str) -> Any:
        response = self.session.get(self.server_url + path, timeout=30)
        response.raise_for_status()
        return response.json()

    def _post(self, path: str) -> dict[str, Any]:
        response = self.session.post(self.server_url + path, timeout=30)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer
