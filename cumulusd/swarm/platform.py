"""Docker Swarm as the platform: a job's container is a service with one task."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from cumulusd.errors import Conflict, CumulusError, NotFound, Unavailable
from cumulusd.jobs.ports import Container, ContainerSpec, Disagreement, Holding, Node
from cumulusd.swarm import agreement, container_states, labels, log_frames
from cumulusd.swarm.answers import ApiVersion, NodeInfo, ServiceInfo
from cumulusd.swarm.engine import Engine
from cumulusd.swarm.image_reference import ImageBy, resolve_image
from cumulusd.swarm.known_images import KnownImages
from cumulusd.swarm.service_spec import (
    JobSettings,
    job_service,
    missing_guarantees,
    service_name,
)
from cumulusd.swarm.shared_look import SharedLook
from cumulusd.tasks import Tasks, sleep

_EXPLAIN_BYTES = 4096
_EXPLAIN_LINES = 50
_Key = tuple[str, int]  # job id, attempt


@attrs.frozen
class _Seen:
    """By one look."""

    containers: Mapping[_Key, Container]
    removable: Mapping[_Key, str]  #: ids of services of which nothing runs or will start


#: A look at all that would tell more than so many containers to each who waits for it is not worth
#: it: one container alone costs two small requests.
_ASK_ALONE = 100


class SwarmPlatform:
    """Implements `cumulusd.jobs.ports.Platform` on one Swarm manager's engine."""

    name = "swarm"
    _log = Logger()

    def __init__(
        self,
        *,
        engine: Engine,
        clock: Any,
        settings: JobSettings,
        image: str,
        image_by: ImageBy = ImageBy.DIGEST,
    ) -> None:
        """`engine` may serve others too. `image`: of jobs, as configured."""
        self._engine = engine
        self._clock = clock
        self._settings = settings
        self._image = image
        self._image_by = image_by
        self._tasks = Tasks()
        self._launching: dict[_Key, list[Deferred[None]]] = {}
        self._images = KnownImages(engine, clock)
        self._mine = {labels.INSTANCE: settings.instance_id}
        self._warned_for: ApiVersion | None = None
        self._look = SharedLook(clock, self._look_at_all)
        self._container_count = 0  #: in the last look at all
        self._asking = 0  #: who will join that, or look alone

    async def check(self) -> None:
        """Is this a Swarm manager whose API is known? Also logs what it can't guarantee.

        Raises CumulusError that says what to do.
        """
        self._warn(await self._engine.negotiate())
        info = await self._engine.info()
        if not info.is_manager:
            raise Unavailable(
                f"the Docker Engine at {self._engine.name} is no Swarm manager",
                details={"platform": info.error or "Swarm.ControlAvailable is false"},
                hint="point platform.swarm.endpoint at a manager, or run `docker swarm init` there",
            )
        try:
            await self._images.image(self._image)
        except CumulusError as error:
            # Workers may have it all the same; a launch says what it comes to.
            self._log.info("the job image is not known here: {why}", why=error.message)

    @property
    def image_python(self) -> str | None:
        """The version of Python that the job image says it has, "3.13.5"; None: not known."""
        return self._images.python_version

    # -- the Platform port

    async def nodes(self) -> Sequence[Node]:
        """All nodes of the Swarm; the workers are those that this daemon may use."""
        return [self._node(node) for node in await self._engine.nodes()]

    def foresee_launch(self) -> None:
        """Asks what the job image is, so that the create needn't wait for it."""
        self._images.foresee(self._image)

    async def launch(self, spec: ContainerSpec) -> None:
        """Creates the service. Cancelling ends the wait only: what was asked of the engine can't
        be taken back, so the container counts as alive until the engine has answered."""
        key = (spec.job_id, spec.attempt)
        done: Deferred[None] = Deferred()
        waiting = self._launching.get(key)
        if waiting is None:
            self._launching[key] = [done]
            self._tasks.start(self._launch(spec, key), "creating a service", job_id=spec.job_id)
        else:
            waiting.append(done)
        await done

    async def containers(self) -> Mapping[str, Container]:
        """Of each job the newest attempt's, in one look that those who ask at the same time
        share."""
        found: dict[str, Container] = {}
        for container in await self.all_containers():
            there = found.get(container.job_id)
            if there is None or there.attempt < container.attempt:
                found[container.job_id] = container
        return found

    async def all_containers(self) -> Sequence[Container]:
        """All of this instance's."""
        before = set(self._launching)
        found = dict((await self._look.get()).containers)
        for key in before | set(self._launching):
            found.setdefault(key, _being_created(key))
        return list(found.values())

    async def container(self, job_id: str, attempt: int) -> Container | None:
        """That attempt's alone. The look that all share tells it, unless that has grown to far
        more than those who wait for it."""
        key = (job_id, attempt)
        is_launching = key in self._launching
        found = (await self._look_for(job_id)).containers.get(key)
        if is_launching or key in self._launching:
            return found or _being_created(key)
        return found

    async def stop(self, job_id: str, attempt: int) -> None:
        """Scales to 0: TERM, then KILL, while the task stays listed until it is gone."""
        try:
            service = await self._service(job_id, attempt)
            await self._engine.scale_service(service.service_id, 0)
        except NotFound:
            pass  # it is gone, which was the wish
        except CumulusError as error:
            error.job_id = job_id
            raise

    async def remove(self, job_id: str, attempt: int) -> None:
        """Deletes the service. Raises Unavailable while a task of it runs or may start: after the
        deletion nothing would tell when that ends."""
        name = service_name(job_id, attempt)
        if (job_id, attempt) in self._launching:
            raise self._still_alive(job_id, "its service is being created")
        try:
            service = await self._service(job_id, attempt)
            tasks = await self._engine.tasks_of(service)
            if any(container_states.is_condemned(task) for task in tasks):
                # Nobody will ever say how those ended whose node was removed from the Swarm.
                known = {node.node_id for node in await self._engine.nodes()}
                tasks = [task for task in tasks if task.node_id in known or not task.node_id]
            if container_states.may_run(service, tasks):
                states = ", ".join(f"{task.state}, to be {task.desired_state}" for task in tasks)
                raise self._still_alive(job_id, f"tasks of {name}: {states or 'none yet'}")
            await self._engine.remove_service(service.service_id)
        except NotFound:
            pass
        except CumulusError as error:
            error.job_id = job_id
            raise

    async def remove_ended(self, job_id: str, attempt: int) -> bool:
        """Deletes the service if, by a look that all share, nothing of it runs or will start."""
        key = (job_id, attempt)
        if key in self._launching:
            return False
        seen = await self._look_for(job_id)
        if key in self._launching:
            return False
        service_id = seen.removable.get(key)
        if service_id is None:
            container = seen.containers.get(key)
            if container is not None and not container.alive:
                # On a lost node: what may be removed then takes a closer look.
                await self.remove(job_id, attempt)
            return container is None or not container.alive
        try:
            await self._engine.remove_service(service_id)
        except CumulusError as error:
            error.job_id = job_id
            raise
        return True

    async def explain(self, job_id: str, attempt: int) -> str:
        """The end of the container's own log. What can't be read is said in the text: this is
        asked for when something else went wrong already."""
        try:
            data = await self._engine.service_log(
                service_name(job_id, attempt), tail_lines=_EXPLAIN_LINES
            )
        except NotFound:
            return ""
        except CumulusError as error:
            words = error.details.get("platform", error.message)
            return f"[the container's own log can't be read: {words}]"
        return log_frames.text_of(data, at_most_bytes=_EXPLAIN_BYTES)

    async def disagreements(self, held: Mapping[str, Sequence[Holding]]) -> Sequence[Disagreement]:
        """What services reserve, those of others too, against what the ledgers hold."""
        if not held:
            return ()
        services = await self._engine.services()
        return agreement.disagreements(
            services,
            await self._engine.tasks(),
            held,
            instance_id=self._settings.instance_id,
            prefix=self._settings.resource_prefix,
        )

    async def close(self) -> None:
        """Ends waits and the engine's idle connections; containers go on and are found again at
        the next start."""
        await self._tasks.stop()
        await self._images.close()
        await self._look.close()
        await self._engine.close()

    # -- inside

    async def _service(self, job_id: str, attempt: int) -> ServiceInfo:
        """The job's service, if it is this instance's. Raises NotFound: another one of that name
        is not ours to touch."""
        service = await self._engine.service(service_name(job_id, attempt))
        if service.labels.get(labels.INSTANCE) != self._settings.instance_id:
            raise NotFound(f"the service {service.name} is another daemon's", job_id=job_id)
        return service

    def _node(self, node: NodeInfo) -> Node:
        whose = node.labels.get(labels.INSTANCE, self._settings.instance_id)
        enrolled = node.labels.get(labels.WORKER) == "true"
        return Node(
            node_id=node.node_id,
            hostname=node.hostname,
            state=node.state,
            availability=node.availability,
            is_worker=enrolled and whose == self._settings.instance_id,
        )

    async def _look_at_all(self) -> _Seen:
        seen = await self._look_at({**self._mine, labels.JOB: None})
        self._container_count = len(seen.containers)
        return seen

    async def _look_for(self, job_id: str) -> _Seen:
        """That which all share, unless it has grown to far more than those who wait for it."""
        self._asking += 1
        try:
            await sleep(self._clock, 0)  # those who ask at the same time count
            is_alone = self._container_count > _ASK_ALONE * (self._asking + self._look.waiting)
        finally:
            self._asking -= 1
        if is_alone:
            return await self._look_at({**self._mine, labels.JOB: job_id})
        return await self._look.get()

    async def _look_at(self, of: Mapping[str, str | None]) -> _Seen:
        """Those whose service has these labels."""
        # The services first: a task without one is then of a removed service, or a new one's.
        services = await self._engine.services(of)
        tasks = await self._engine.tasks(of)
        lost: dict[str, str] = {}
        if any(container_states.is_condemned(task) for task in tasks):
            nodes = await self._engine.nodes()
            lost = container_states.lost_nodes(tasks, nodes)
        return _Seen(
            container_states.containers(services, tasks, lost),
            container_states.removable(services, tasks),
        )

    async def _launch(self, spec: ContainerSpec, key: _Key) -> None:
        """Tells all who wait how it went; a failure that nobody waits for is logged."""
        error: Exception | None = None
        try:
            await self._create(spec)
        except CancelledError:
            error = Unavailable("the daemon is stopping", job_id=spec.job_id)
            raise
        except Exception as problem:
            error = problem
        finally:
            told = [done for done in self._launching.pop(key) if not done.called]
            for done in told:
                if error is None:
                    done.callback(None)
                else:
                    done.errback(error)
        if error is not None and not told:
            self._log.warn(
                "job {job_id}: its service could not be created, which nobody waits for: {why}",
                job_id=spec.job_id,
                why=str(error),
            )

    async def _create(self, spec: ContainerSpec) -> None:
        try:
            api = await self._engine.negotiate()
            self._warn(api)
            image = await resolve_image(self._images, self._image, self._image_by)
            service = job_service(spec, self._settings, image=image, api=api)
            await self._engine.create_service(service.payload)
        except Conflict as error:
            name = service_name(spec.job_id, spec.attempt)
            raise Conflict(
                f"there is a service {name} that this daemon didn't make",
                job_id=spec.job_id,
                details=error.details,
                hint=f"see whose it is with `docker service inspect {name}`, and remove it",
            ) from error
        except CumulusError as error:
            error.job_id = spec.job_id
            raise

    def _warn(self, api: ApiVersion) -> None:
        """Once for each version that is met: the operator should know, every job needn't."""
        if api == self._warned_for:
            return
        self._warned_for = api
        for guarantee in missing_guarantees(api):
            self._log.warn("not available on this engine: {guarantee}", guarantee=guarantee)

    def _still_alive(self, job_id: str, why: str) -> Unavailable:
        return Unavailable(
            f"the container of job {job_id} is still alive",
            job_id=job_id,
            details={"platform": why},
            hint="stop it, and remove it when it is gone",
        )


def _being_created(key: _Key) -> Container:
    return Container(
        job_id=key[0],
        attempt=key[1],
        node_id=None,
        alive=True,
        exit_code=None,
        message="the service is being created",
    )
