"""python -m tests.conformance.asgi: run the suite against a server."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import click

from tests.conformance.asgi import report
from tests.conformance.asgi.case import Level
from tests.conformance.asgi.cases import CASES
from tests.conformance.asgi.peers import PEERS, Peer
from tests.conformance.asgi.run import NotServing, Outcome, Result, run_all

MARKS = {Outcome.PASS: ".", Outcome.FAIL: "F", Outcome.SKIP: "s"}


def of(names: tuple[str, ...], commands: tuple[str, ...], bin_dir: Path | None) -> dict[str, Peer]:
    """The servers to be tested: by name, or by a command with {host}, {port} and {app}."""
    peers = {name: PEERS[name] for name in names}
    peers.update({command.split()[0]: Peer(command, "") for command in commands})
    if bin_dir is not None:
        peers = {name: peer._replace(command=f"{bin_dir.resolve()}/{peer.command}") for name, peer in peers.items()}
    return peers


def title(name: str, peer: Peer, bin_dir: Path | None) -> str:
    """A server's name with its version, where its package is known and installed."""
    python = bin_dir / "python" if bin_dir else Path(sys.executable)
    if not peer.package or not python.exists():
        return name
    program = f"import importlib.metadata as m; print(m.version({peer.package!r}))"
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    return f"{name} {done.stdout.strip()}".strip()


@click.command()
@click.option("--server", "names", multiple=True, type=click.Choice(list(PEERS)), help="A server known by name.")
@click.option("--command", "commands", multiple=True, help="'uvicorn --host {host} --port {port} {app}'")
@click.option("--bin", "bin_dir", type=click.Path(path_type=Path), help="Directory with the servers' programs.")
@click.option("-k", "only", default="", help="Cases with this in their name.")
@click.option("--should/--no-should", default=True, help="Whether those count that no specification demands.")
def main(names: tuple[str, ...], commands: tuple[str, ...], bin_dir: Path | None, only: str, should: bool) -> None:
    """Run the suite; the exit status is 1 if a case fails."""
    peers = of(names, commands, bin_dir)
    if not peers:
        raise click.UsageError("name a server with --server, or give a --command")
    cases = [case for case in CASES if only in case.name and (should or case.level is Level.MUST)]
    found: dict[str, list[Result]] = {}
    for plain_name, peer in peers.items():
        name = title(plain_name, peer, bin_dir)
        click.echo(name)
        try:
            with tempfile.TemporaryDirectory() as directory:
                found[name] = run_all(
                    peer, Path(directory), cases, lambda result: click.echo(MARKS[result.outcome], nl=False)
                )
        except NotServing as error:
            raise click.ClickException(str(error)) from None
        click.echo(f"\n{report.table(found[name])}\n\n{report.failures(found[name])}\n")
    if len(found) > 1:
        click.echo(report.side_by_side(found))
    failed = any(result.outcome is Outcome.FAIL for results in found.values() for result in results)
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
