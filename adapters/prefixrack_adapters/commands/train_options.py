"""The options of `prefixrack train`, in the groups that its help shows. Knows names and help texts, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefixrack.types import TaskName

DATA, METHOD, OPTIMISATION, OUTPUT = "Data", "Method", "Optimisation", "Output"

# Data
Task = Annotated[
    TaskName | None,
    typer.Option(
        metavar="TASK",
        help="text-classification, token-classification, question-answering, multiple-choice or text-embedding.",
        rich_help_panel=DATA,
    ),
]
TrainFile = Annotated[
    str | None,
    typer.Option(
        "--train",
        metavar="FILE",
        help="Training data: jsonl, csv or parquet, optionally .gz, a folder of those, or a hub id.",
        rich_help_panel=DATA,
    ),
]
DevFile = Annotated[
    str | None,
    typer.Option("--dev", metavar="FILE", help="Data that epochs are chosen by, likewise.", rich_help_panel=DATA),
]
TrainSplit = Annotated[
    str, typer.Option(metavar="NAME", help="Split of a folder or hub id as --train.", rich_help_panel=DATA)
]
DevSplit = Annotated[
    str, typer.Option(metavar="NAME", help="Split of a folder or hub id as --dev.", rich_help_panel=DATA)
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="NAME=YOURS",
        help="Your name of a column, e.g. text=premise; repeat as needed.",
        rich_help_panel=DATA,
    ),
]
InputFormat = Annotated[
    str,
    typer.Option(
        metavar="FORMAT", help="The data set's own form of an input, e.g. srl, wsc, boolq.", rich_help_panel=DATA
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,…", help="All labels in order; by default those that occur in --train.", rich_help_panel=DATA
    ),
]
Sets = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="For --method multitask, instead of the above: a TOML file with one table for each data set.",
        rich_help_panel=DATA,
    ),
]
MaxLen = Annotated[
    int, typer.Option(metavar="N", help="Tokens of a row, special tokens included.", rich_help_panel=DATA)
]
Stride = Annotated[int, typer.Option(metavar="N", help="Tokens that neighbouring windows share.", rich_help_panel=DATA)]

# Method
BackboneName = Annotated[
    str, typer.Option(metavar="NAME", help="A folder, a hub id, or 'embedded'.", rich_help_panel=METHOD)
]
Method = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="p-tuning-v2, prompt-tuning or multitask; fine-tuning and head-only are baselines without a bundle.",
        rich_help_panel=METHOD,
    ),
]
PrefixLen = Annotated[
    int,
    typer.Option(
        metavar="N", help="Prefix vectors in each layer; of prompt-tuning before the words.", rich_help_panel=METHOD
    ),
]
PrefixLayers = Annotated[
    str | None,
    typer.Option(metavar="3,4,…", help="Layers with a prefix, counted from 0; all by default.", rich_help_panel=METHOD),
]
PrefixInit = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="normal, or words: the backbone's own keys and values of random words.",
        rich_help_panel=METHOD,
    ),
]
Reparameterization = Annotated[
    str, typer.Option(metavar="NAME", help="none or mlp: an MLP makes the prefix.", rich_help_panel=METHOD)
]
ReparameterizationSize = Annotated[int, typer.Option(metavar="N", help="Width of that MLP.", rich_help_panel=METHOD)]
PrefixDropout = Annotated[
    float, typer.Option(metavar="P", help="Share of the prefix left out at random.", rich_help_panel=METHOD)
]
BackboneDropout = Annotated[
    bool,
    typer.Option(
        "--backbone-dropout/--no-backbone-dropout",
        help="The backbone's own dropout, in training; without it a step costs less.",
        rich_help_panel=METHOD,
    ),
]
InitFrom = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="A bundle whose prefix the run starts from.", rich_help_panel=METHOD),
]
Head = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="linear, or pooler: the backbone's tanh pooler, then linear.", rich_help_panel=METHOD
    ),
]
Pooling = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What the head reads: first_token, last_token or, for texts and embeddings, mean_tokens; by backbone.",
        rich_help_panel=METHOD,
    ),
]

# Optimisation
Epochs = Annotated[int, typer.Option(metavar="N", help="At most; see --patience.", rich_help_panel=OPTIMISATION)]
Patience = Annotated[
    int,
    typer.Option(
        metavar="N", help="Stop after so many epochs without a better dev score.", rich_help_panel=OPTIMISATION
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option(metavar="X", help="By default the method's own, see docs/training.md.", rich_help_panel=OPTIMISATION),
]
HeadLearningRate = Annotated[
    float | None,
    typer.Option(metavar="X", help="Of the head; as --learning-rate by default.", rich_help_panel=OPTIMISATION),
]
BatchSize = Annotated[int, typer.Option(metavar="N", help="Examples in a step.", rich_help_panel=OPTIMISATION)]
BatchTokens = Annotated[
    int | None,
    typer.Option(metavar="N", help="Instead: about so many tokens in a step.", rich_help_panel=OPTIMISATION),
]
PackTokens = Annotated[
    int,
    typer.Option(metavar="N", help="Tokens computed at once: bounds memory.", rich_help_panel=OPTIMISATION),
]
GradientAccumulation = Annotated[
    int, typer.Option(metavar="N", help="Batches in a step.", rich_help_panel=OPTIMISATION)
]
WeightDecay = Annotated[float, typer.Option(metavar="X", help="Of AdamW.", rich_help_panel=OPTIMISATION)]
Warmup = Annotated[
    float,
    typer.Option(
        metavar="P", help="Share of the steps in which the learning rate rises.", rich_help_panel=OPTIMISATION
    ),
]
TuneEpochs = Annotated[
    int,
    typer.Option(
        metavar="N", help="For multitask: then at most so many for each data set alone.", rich_help_panel=OPTIMISATION
    ),
]
TuneLearningRate = Annotated[
    float | None,
    typer.Option(metavar="X", help="Of that; as --learning-rate by default.", rich_help_panel=OPTIMISATION),
]
Seed = Annotated[
    int | None, typer.Option(metavar="N", help="Of all chance; by default 13.", rich_help_panel=OPTIMISATION)
]
Seeds = Annotated[
    str | None,
    typer.Option(
        metavar="13,14,…", help="A run for each; the best one's bundle is kept.", rich_help_panel=OPTIMISATION
    ),
]
Sweep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=A,B,…",
        help="A run for each value, e.g. learning_rate=3e-3,1e-2; repeated, for each combination.",
        rich_help_panel=OPTIMISATION,
    ),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1 …", rich_help_panel=OPTIMISATION)]
Dtype = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="Of the backbone in training: auto, float32, bfloat16.", rich_help_panel=OPTIMISATION
    ),
]

# Output
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the bundle goes.", rich_help_panel=OUTPUT)
]
Name = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Of the adapter; by default the output folder's.", rich_help_panel=OUTPUT),
]
Description = Annotated[str, typer.Option(metavar="TEXT", help="What it is for, in the card.", rich_help_panel=OUTPUT)]
Dataset = Annotated[
    str,
    typer.Option(metavar="NAME", help="Of the data set, in the card and beside scores.", rich_help_panel=OUTPUT),
]
DataSource = Annotated[
    str,
    typer.Option("--source", metavar="TEXT", help="Where data comes from, in the card.", rich_help_panel=OUTPUT),
]
Licence = Annotated[str | None, typer.Option(metavar="NAME", help="Of the data, in the card.", rich_help_panel=OUTPUT)]
NumExamples = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Dev inputs to put into the bundle, for servers that compare int8 weights with the original ones on them. "
        "They become as public as the bundle: give none where the data may not.",
        rich_help_panel=OUTPUT,
    ),
]
PrefixDtype = Annotated[
    str, typer.Option(metavar="NAME", help="As stored: float16 or float32.", rich_help_panel=OUTPUT)
]
Trackers = Annotated[
    list[str] | None,
    typer.Option(
        "--tracker", metavar="NAME", help="tensorboard, trackio, mlflow …; repeat as needed.", rich_help_panel=OUTPUT
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was broken off.", rich_help_panel=OUTPUT)]
Restart = Annotated[
    bool, typer.Option("--restart", help="Remove what such a run left, and begin anew.", rich_help_panel=OUTPUT)
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what an earlier run wrote there.", rich_help_panel=OUTPUT)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.", rich_help_panel=OUTPUT)]
