"""Trains with PyTorch, is paused in the middle, and goes on from its checkpoint.

    python examples/pytorch_checkpoint.py [SERVER_URL]

The jobs' Python has to have PyTorch, as the job image `ml` has; elsewhere add
`requirements=["torch"]` to the submit. This machine needs none of it.
"""

import os
import sys
import time

from cumulus_client import CumulusClient, CumulusJob

EPOCHS = 80


def train(epochs):
    """Learns which points lie in a ring. Gives the share of points that it gets right."""
    import runtime  # every job has it
    import torch

    torch.manual_seed(0)
    points = torch.rand(2000, 2) * 4 - 2
    radius = points.norm(dim=1)
    inside = ((radius > 0.8) & (radius < 1.6)).long()
    model = torch.nn.Sequential(
        torch.nn.Linear(2, 32), torch.nn.ReLU(), torch.nn.Linear(32, 32), torch.nn.ReLU()
    )
    model.append(torch.nn.Linear(32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)

    first = 0
    if runtime.find_latest_checkpoint():
        first = runtime.load_checkpoint(model, optimizer)["epoch"] + 1
        print(f"going on with epoch {first}")
    for epoch in range(first, epochs):
        for batch in torch.randperm(len(points)).split(100):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(points[batch]), inside[batch])
            loss.backward()
            optimizer.step()
        runtime.progress((epoch + 1) / epochs, f"epoch {epoch}, loss {loss.item():.3f}")
        pausing = runtime.should_pause()
        if pausing or epoch % 10 == 9:
            runtime.save_checkpoint(model, optimizer, epoch=epoch)
        if pausing:
            print(f"paused after epoch {epoch}")
            return None  # the job is paused, and begins anew when it is resumed
    right = (model(points).argmax(dim=1) == inside).float().mean().item()
    print(f"trained {epochs} epochs")
    return right


def wait_for(job: CumulusJob, what: str, seconds: float = 300.0) -> None:
    """Until the job has that status, or has ended."""
    deadline = time.monotonic() + seconds
    while job.status() != what and not job.done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{job.job_id} is {job.status()}, not {what}, after {seconds:g} s")
        time.sleep(0.2)


def main(url: str) -> None:
    """Submits, pauses, resumes."""
    with CumulusClient(url, os.environ.get("CUMULUS_API_KEY")) as client:
        job = client.submit(train, gpu_memory=0.25, duration=600, name="ring", args=[EPOCHS])
        while not job.get_checkpoints() and not job.done():
            time.sleep(0.2)
        if job.done():
            job.result()  # raises what went wrong: no PyTorch, say
        job.pause()
        wait_for(job, "paused")
        newest = max(job.get_checkpoints(), key=lambda one: one["epoch"])
        print(f"paused with checkpoint {newest['filename']}; others may have its share now")

        job.resume()
        for text in job.logs():  # of before the pause too
            print(text, end="", flush=True)
        print(f"right: {job.result():.0%}")


if __name__ == "__main__":
    default = os.environ.get("CUMULUS_SERVER_URL", "http://127.0.0.1:50051")
    main(sys.argv[1] if len(sys.argv) > 1 else default)
