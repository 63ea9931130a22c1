"""The command line. Heavy imports happen inside the commands, so that help is instant."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Compose, extend and compare methods that teach a language model from feedback.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
recipes = typer.Typer(help="Look at recipes without running them.", no_args_is_help=True)
plugins = typer.Typer(help="Look at the registered parts and their plug-ins.", no_args_is_help=True)
app.add_typer(recipes, name="recipe")
app.add_typer(plugins, name="plugins")

Source = Annotated[str, typer.Argument(help="A recipe file, or the name of a packaged recipe.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Changes, as path=value: steps=100 optimizers.main.lr=1e-5"),
]
Out = Annotated[
    Path | None, typer.Option("--out", help="The run's folder. Default: runs/NAME-SEED.")
]


@app.command()
def train(
    recipe: Source,
    overrides: Overrides = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option(help="Continue from the last state in --out.")] = False,
    quiet: Annotated[bool, typer.Option(help="Print only warnings and errors.")] = False,
) -> None:
    """Train by a recipe; writes a folder with metrics, trajectories, states and the final model."""
    from didact.configs.launch import train_recipe

    outcome = train_recipe(recipe, overrides or (), out=out, resume=resume, quiet=quiet)
    raise typer.Exit(130 if outcome == "interrupted" else 0)


@app.command("eval")
def evaluate(
    recipe: Source,
    overrides: Overrides = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A model folder, e.g. RUN/final. Default: the recipe's own.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the answers (JSONL).")] = None,
) -> None:
    """Evaluate a model by a recipe's `evaluation:` and print a table."""
    from didact.configs.evaluate import evaluate_recipe

    evaluate_recipe(recipe, overrides or (), checkpoint=checkpoint, out=out)


@app.command()
def plan(recipe: Source, overrides: Overrides = None) -> None:
    """Show what a recipe would do, without loading weights: stages, batches, models, memory."""
    from didact.configs.plan import print_plan

    print_plan(recipe, overrides or ())


@app.command()
def compare(
    comparison: Annotated[
        str, typer.Argument(help="A comparison file, or the name of a packaged one.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of cells and report. Default: runs/NAME.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this method; may be given again.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Cells that run at once. Default: as many as GPUs or cores suffice for."
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Instead of the file's, e.g. 0,1,2.")] = "",
    dry_run: Annotated[bool, typer.Option(help="List the cells, run nothing.")] = False,
) -> None:
    """Run methods x seeds side by side and write one report; continues where it was interrupted."""
    from didact.configs.compare import run_comparison

    try:
        numbers = [int(seed) for seed in seeds.split(",") if seed]
    except ValueError:
        raise typer.BadParameter(
            f"'{seeds}' is no list of whole numbers", param_hint="--seeds"
        ) from None
    folder = out or Path("runs") / Path(comparison).name.split(".")[0]
    report = run_comparison(
        comparison, folder, only=only or (), jobs=jobs, seeds=numbers, dry_run=dry_run
    )
    if report is not None:
        typer.echo(f"report: {report}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Finished runs, or folders of comparisons.")],
    out: Annotated[Path, typer.Option(help="Where to write the report.")] = Path("report"),
    baseline: Annotated[
        str | None, typer.Option(help="The method that the others are compared with.")
    ] = None,
) -> None:
    """Build one report (HTML, Markdown, CSV, PNG) from any finished runs."""
    from didact.core.report import compared, find_cells, print_summary, write_report

    results = compared(find_cells(runs).with_choices(baseline))
    page = write_report(results, out)
    print_summary(results)
    typer.echo(f"report: {page}")


@app.command()
def view(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    origin: Annotated[str | None, typer.Option(help="Only this origin, e.g. policy.")] = None,
    first: Annotated[int, typer.Option(help="Groups to print when not on a terminal.")] = 3,
) -> None:
    """Browse a run's trajectories in the terminal: question, responses, rewards."""
    from didact.core.report import view as browse

    browse(run, origin=origin, first=first)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of runs and report.")] = Path("runs/quickstart"),
) -> None:
    """Compare GRPO, SFT and ReLIFT on a tiny model: a few minutes on two CPU cores."""
    compare("quickstart", out=out, only=None, jobs=None, seeds="", dry_run=False)


@app.command("new-plugin")
def new_plugin(
    name: Annotated[str, typer.Argument(help="What it adds, e.g. my-loss.")],
    kind: Annotated[
        str,
        typer.Option(
            help="loss, advantage, reward, critic, source, sampler, buffer, environment or method."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write it into.")] = Path(),
) -> None:
    """Write a plug-in package: one typed module, a recipe, tests, ready to be installed."""
    from didact.configs.document import packaged
    from didact.plugins import scaffold
    from didact.plugins.manager import load

    home = scaffold.new_plugin(name, kind, out, load(), packaged())
    typer.echo(f"{home}: install it with  pip install -e '{home}[test]'  and run  pytest {home}")


@recipes.command("show")
def show(recipe: Source) -> None:
    """Print a recipe as it is written."""
    from didact.configs.document import locate

    typer.echo(locate(recipe).read_bytes(), nl=False)


@recipes.command()
def expand(recipe: Source, overrides: Overrides = None) -> None:
    """Print a recipe with everything inherited and every default filled in."""
    from didact.configs.resolve import expanded

    typer.echo(expanded(recipe, overrides or ()), nl=False)


@recipes.command()
def diff(first: Source, second: Source) -> None:
    """Print how one recipe differs from another, default values included."""
    from didact.configs.resolve import differences

    lines = differences(first, second)
    typer.echo("\n".join(lines) if lines else "no difference")


@recipes.command()
def validate(recipe: Source, overrides: Overrides = None) -> None:
    """Check a recipe, without loading any model."""
    from didact.configs.resolve import checked

    checked(recipe, overrides or ())
    typer.echo(f"{recipe}: ok")


@recipes.command()
def schema() -> None:
    """Print the JSON Schema of recipes, installed plug-ins included, for editors."""
    import json

    from didact.configs.jsonschema import recipe_schema
    from didact.plugins.manager import load

    typer.echo(json.dumps(recipe_schema(load()), indent=1))


@recipes.command("list")
def list_recipes() -> None:
    """List the packaged recipes and what each is."""
    from didact.configs.document import packaged, read

    for name in packaged():
        about = str(read(name).data.get("about", "")).strip().split("\n")[0]
        typer.echo(f"{name:24} {about}")


@plugins.command("list")
def list_parts(
    kind: Annotated[str | None, typer.Argument(help="Only this kind, e.g. loss.")] = None,
) -> None:
    """List every registered part: kind, name, plug-in, and its first line."""
    from didact.core.errors import RecipeError, unknown
    from didact.plugins.manager import load
    from didact.plugins.registry import HOOKS

    if kind is not None and kind not in HOOKS:
        raise RecipeError(unknown("kind of part", kind, HOOKS))
    for entry in load().entries():
        if kind in (None, entry.kind):
            typer.echo(f"{entry.kind:12} {entry.name:24} {entry.origin:16} {entry.summary}")


@plugins.command("show")
def show_part(name: Annotated[str, typer.Argument(help="A part, as NAME or KIND:NAME.")]) -> None:
    """Show a part's documentation, settings and defaults."""
    from didact.configs.resolve import described

    typer.echo(described(name))


@plugins.command()
def doctor() -> None:
    """Examine plug-ins and environment; exits with 1 if something is wrong, and says what."""
    from didact.plugins.doctor import examine

    lines, findings = examine()
    typer.echo("\n".join([*lines, ""]))
    for finding in findings:
        typer.echo(f"{finding.level}: {finding.text}")
    wrong = sum(finding.level == "error" for finding in findings)
    typer.echo(f"{wrong} errors, {len(findings) - wrong} warnings")
    raise typer.Exit(1 if wrong else 0)


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Errors made on purpose are printed plainly, and exit with 2."""
    from didact.core.errors import DidactError

    code = 0
    try:
        app(args=arguments)
    except DidactError as error:
        typer.echo(str(error), err=True)
        code = 2
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    if "didact.core.world" in sys.modules:
        from didact.core import world

        world.leave(code)
    sys.exit(code)
