from cumulus_client import CumulusClient


def mean_of_squares(n):
    import numpy  # installed for the job; this machine need not have it

    print(f"squaring {n} numbers")
    return float((numpy.arange(n) ** 2).mean())


with CumulusClient() as client:  # or CumulusClient("http://gpu-server", api_key="...")
    print(client.run(mean_of_squares, gpu_memory=0.25, duration=60, requirements=["numpy"], n=1000))
