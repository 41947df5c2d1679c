"""``gridcloud cluster …``: Kubernetes clusters."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from gridcloud.cli.completion import cluster_providers, clusters
from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import ago, error_console, plain, print_table, until
from gridcloud.cli.steps import Steps, print_story, waiting
from gridcloud.client import AsyncClient
from gridcloud.clusters.model import FINAL, Cluster, ClusterRequest, Reason
from gridcloud.errors import Forbidden, InvalidRequest, Unavailable
from gridcloud.instances.costs import describe_cost
from gridcloud.instances.matching import describe_price

__all__ = ["app"]

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Kubernetes clusters that are made for you."
)

Id = Annotated[
    str, typer.Argument(metavar="CLUSTER", help="The cluster's name, or its id.", autocompletion=clusters)
]
Nodes = Annotated[int, typer.Option("--nodes", "-n", min=1, metavar="N", help="Nodes that work is done on.")]
Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Wait until it is done, or not where a service runs.")
]


_USE = "gridcloud provider add NAME --driver kubernetes kubeconfig={}"
"""Makes it a provider of instances, by the administrator of the service."""


@app.command("start")
@framed
async def start(
    frame: Frame,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A new name.")],
    nodes: Nodes = 1,
    on: Annotated[
        str,
        typer.Option(
            "--on",
            metavar="PROVIDER",
            help="Entry of 'clusters' in the configuration; its first when not given.",
            autocompletion=cluster_providers,
        ),
    ] = "",
    shape: Annotated[str, typer.Option("--shape", help="Shape of the nodes, as the provider names it.")] = "",
    cpus: Annotated[float, typer.Option("--cpus", help="CPU cores of each node, at least.")] = 0,
    memory: Annotated[str, typer.Option("--memory", help="Memory of each node, at least, e.g. 4GiB.")] = "0",
    gpus: Annotated[int, typer.Option("--gpus", help="GPUs of each node, at least.")] = 0,
    version: Annotated[str, typer.Option("--version", help="Version of Kubernetes, e.g. 1.31.")] = "",
    time: Annotated[str, typer.Option("--time", help="Time limit, e.g. 8h.")] = "0",
    project: Annotated[str, typer.Option("--project", help="Project whose budget it is charged to.")] = "",
    wait: Wait = True,
) -> None:
    """Have a cluster made."""
    asked = {"on": on, "nodes": nodes, "shape": shape, "cpus": cpus, "memory": memory, "gpus": gpus}
    request = _request({**asked, "version": version, "time": time, "project": project})
    async with await frame.connect(alone=not wait) as client:
        cluster = await client.start_cluster(name, request)
        if wait:
            with Steps(frame, f"Making {plain(name)}") as steps:
                cluster = await client.wait_cluster(cluster.id, steps.event)
        currency = await _currency(frame, client)
    _show(frame, cluster, currency)
    if cluster.state in FINAL:
        raise Unavailable(f"The cluster {cluster.name} could not be had: {cluster.detail}")


@app.command("scale")
@framed
async def scale(frame: Frame, id: Id, nodes: Nodes, wait: Wait = True) -> None:
    """Give it more or fewer nodes. What the provider refuses leaves it as it is."""
    async with await frame.connect(alone=not wait) as client:
        cluster = await client.cluster(id)
        told = [event.seq async for event in client.cluster_events(cluster.id)]
        cluster = await client.scale_cluster(cluster.id, nodes)
        if wait:
            with Steps(frame, f"Scaling {plain(cluster.name)}") as steps:
                cluster = await client.wait_cluster(cluster.id, steps.event, after=max(told, default=0))
        currency = await _currency(frame, client)
    _show(frame, cluster, currency)
    if wait and (cluster.state in FINAL or cluster.nodes != nodes):
        raise Unavailable(cluster.detail or f"The cluster {cluster.name} is {cluster.state}.")


@app.command("list")
@framed
async def list_(
    frame: Frame, all: Annotated[bool, typer.Option("--all", "-a", help="Ended ones too.")] = False
) -> None:
    """List your clusters; an administrator sees everybody's."""
    async with await frame.connect() as client:
        found = await client.clusters(all=all)
    if frame.json:
        frame.show({"clusters": [cluster.model_dump(mode="json") for cluster in found]})
        return
    rows = [
        (
            one.name,
            one.id,
            one.state,
            _nodes(one),
            one.provider,
            one.owner,
            ago(one.created),
            until(one.expires),
        )
        for one in found
    ]
    headings = ("NAME", "ID", "STATE", "NODES", "PROVIDER", "OWNER", "CREATED", "ENDS")
    print_table(headings, rows, dim=[number for number, one in enumerate(found) if one.state in FINAL])


@app.command("show")
@framed
async def show(frame: Frame, id: Id) -> None:
    """Show all about one cluster, and how it becomes a provider of instances."""
    async with await frame.connect() as client:
        cluster = await client.cluster(id)
        currency = await _currency(frame, client)
    _show(frame, cluster, currency)


@app.command("access")
@framed
async def access(
    frame: Frame,
    id: Id,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="A new file, which nobody else may read.")
    ],
) -> None:
    """Write the access to a cluster (its kubeconfig) into a file, for kubectl and the like."""
    async with await frame.connect() as client:
        text = await client.cluster_access(id)
    _write(output, text)
    if frame.json:
        frame.show({"kubeconfig": str(output)})
    else:
        error_console().print(plain(f"Wrote {output}. Try it: kubectl --kubeconfig {output} get nodes"))


@app.command("stop")
@framed
async def stop(frame: Frame, id: Id, wait: Wait = True) -> None:
    """End a cluster, and wait until nothing is left of it."""
    async with await frame.connect(alone=not wait) as client:
        cluster = await client.cluster(id)
        told = [event.seq async for event in client.cluster_events(cluster.id)]
        cluster = await client.stop_cluster(cluster.id)
        if wait:
            with Steps(frame, f"Stopping {plain(cluster.name)}") as steps:
                cluster = await client.wait_cluster(cluster.id, steps.event, after=max(told, default=0))
    if frame.json:
        frame.show(cluster)


@app.command("events")
@framed
async def events(
    frame: Frame,
    id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it has ended.")] = False,
) -> None:
    """Tell a cluster's story. With --json one document a line."""
    async with await frame.connect() as client:
        cluster = await client.cluster(id)
        await print_story(frame, client.cluster_events(cluster.id, follow=follow))


@app.command("check")
@framed
async def check(
    frame: Frame,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROVIDER]",
            help="Entry of 'clusters' in the configuration; all when left out.",
            autocompletion=cluster_providers,
        ),
    ] = None,
) -> int:
    """Try what makes clusters, making none. Exits 1 where something is wrong."""
    async with await frame.connect() as client:
        with waiting(frame, f"Trying {plain(name or 'all')}"):
            names = (
                [one.name for one in (await client.cluster_providers()).providers] if name is None else [name]
            )
            found = {one: await client.check_cluster_provider(one) for one in names}
    if frame.json:
        listed = [
            {"provider": one, **finding.model_dump(mode="json")} for one in found for finding in found[one]
        ]
        frame.show({"findings": listed})
    else:
        for one, findings in found.items():
            for finding in findings:
                mark = "wrong" if not finding.ok else "ok   " if finding.known else "?    "
                whose = one if finding.subject == one else f"{one}, {finding.subject}"
                print(plain(f"{mark}  {whose}: {finding.message}"))
                if finding.remedy and not (finding.ok and finding.known):
                    print(plain(f"       {finding.remedy}"))
    return 0 if all(finding.ok for findings in found.values() for finding in findings) else 1


@app.command("forget")
@framed
async def forget(
    frame: Frame,
    name: Annotated[
        str, typer.Argument(metavar="PROVIDER", help="An entry that was taken out of 'clusters'.")
    ],
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Also give up what may be left there; it is named.")
    ] = False,
) -> None:
    """Never again ask an entry that left the configuration. Refused while something may be left there."""
    async with await frame.connect() as client:
        with waiting(frame, f"Asking {plain(name)} what it holds"):
            done = await client.forget_cluster_provider(name, give_up=yes)
    if frame.json:
        frame.show(done)
        return
    error_console().print(plain(f"Forgot {name}."))
    for one in done.given_up:
        error_console().print(plain(f"Given up: {one}."))


def _request(fields: dict[str, Any]) -> ClusterRequest:
    from pydantic import ValidationError

    try:
        return ClusterRequest.model_validate(fields)
    except ValidationError as error:
        told = [
            f"--{fault['loc'][0]}: {fault['msg'].removeprefix('Value error, ')}."
            for fault in error.errors(include_url=False)
        ]
        raise InvalidRequest(" ".join(told), remedy="Options are explained by --help.") from None


def _nodes(cluster: Cluster) -> str:
    if cluster.state in FINAL or cluster.nodes_there == cluster.nodes:
        return str(cluster.nodes)
    return f"{cluster.nodes_there} of {cluster.nodes}"


async def _currency(frame: Frame, client: AsyncClient) -> str:
    return "" if frame.json else (await client.version()).currency


def _price(cluster: Cluster, currency: str) -> str:
    """Return what it costs now, for people; nothing where it is free, or costs no longer."""
    charge = cluster.charges[-1] if cluster.charges else None
    if charge is None or charge.until is not None:
        return ""
    if not charge.priced:
        return "not known"
    return describe_price(charge.price, currency) if charge.price else ""


def _show(frame: Frame, cluster: Cluster, currency: str) -> None:
    if frame.json:
        frame.show(cluster)
        return
    asked = cluster.reason not in (Reason.NONE, Reason.ASKED)
    lines = {
        "name": cluster.name,
        "id": cluster.id,
        "owner": cluster.owner,
        "state": f"{cluster.state} ({cluster.reason})" if asked else cluster.state,
        "detail": cluster.detail,
        "provider": cluster.provider,
        "nodes": _nodes(cluster),
        "shape": cluster.rate.shape,
        "price": _price(cluster, currency),
        "cost": describe_cost(cluster.charges, datetime.now(UTC), currency),
        "version": cluster.version_there or cluster.request.version,
        "created": cluster.created,
        "ends": cluster.expires or "",
        "access": cluster.kubeconfig,
        "to use": _USE.format(cluster.kubeconfig) if cluster.kubeconfig else "",
    }
    for key, value in lines.items():
        if str(value).strip():
            print(f"{key:10}{plain(value)}")


def _write(path: Path, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InvalidRequest(f"{path} is there already.", remedy="Remove it, or name another file.") from None
    except OSError as error:
        raise Forbidden(f"{path} cannot be written: {error.strerror}.") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
