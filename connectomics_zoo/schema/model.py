"""`ModelSpec`: everything that is declared about one version of one model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from connectomics_zoo.schema.base import (
    Name,
    Node,
    RepoId,
    Revision,
    Sentence,
    Sha256,
    Shape,
    Size,
    Version,
)
from connectomics_zoo.schema.builder import BuilderConfig, builder_module
from connectomics_zoo.schema.limits import MAX_EDGE, MAX_WEIGHTS_BYTES
from connectomics_zoo.schema.report import Page
from connectomics_zoo.schema.shown import model_page
from connectomics_zoo.schema.training import TrainingSpec


class SizeRule(Node):
    """The legal input sizes: `minimum + n * step` voxels per axis, n = 0, 1, 2, …"""

    minimum: Size
    """The smallest legal size per axis, in voxels."""
    step: Size
    """The distance between legal sizes per axis, in voxels."""

    @model_validator(mode="after")
    def _same_axes(self) -> SizeRule:
        if len(self.minimum) != len(self.step):
            raise ValueError(f"minimum has {len(self.minimum)} axes and step has {len(self.step)}, give both the same")
        return self

    def allows(self, size: tuple[int, ...]) -> bool:
        """Whether `size` (voxels per axis) is legal."""
        return len(size) == len(self.minimum) and all(
            given >= low and (given - low) % step == 0
            for given, low, step in zip(size, self.minimum, self.step, strict=True)
        )

    def describe(self) -> str:
        """The rule in words, such as `16 + n*16, 32 + n*16, 32 + n*16`; an axis with one legal size has that alone."""
        return ", ".join(
            str(low) if low + step > MAX_EDGE else f"{low} + n*{step}"
            for low, step in zip(self.minimum, self.step, strict=True)
        )

    def round_up(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The smallest legal size that is at least `size` on every axis, or the largest one where none is."""
        return tuple(
            low + min(max(0, -(-(given - low) // step)), max(0, (MAX_EDGE - low) // step)) * step
            for given, low, step in zip(size, self.minimum, self.step, strict=True)
        )


class InputSpec(Node):
    """What the network takes: a float tensor (B, channels, Z, Y, X), or (B, channels, Y, X)."""

    channels: Annotated[int, Field(ge=1, le=1024)]
    """Number of input channels."""
    axes: Literal["zyx", "yx"]
    """The spatial axes, slowest first."""
    size: SizeRule
    """The legal spatial sizes."""
    context: Annotated[tuple[Annotated[int, Field(ge=0, le=MAX_EDGE)], ...], Field(strict=False)] | None = None
    """Voxels on each side of the input, per axis, of which no output says anything, since convolutions have valid
    padding: outputs are twice as many voxels smaller. Absent where they are as large as the input."""

    @property
    def margins(self) -> tuple[int, ...]:
        """The context, 0 along every axis where there is none."""
        return (0,) * len(self.axes) if self.context is None else self.context

    def given(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Return how many voxels per axis the network says something of that is given an input of `size`."""
        return tuple(edge - 2 * margin for edge, margin in zip(size, self.margins, strict=True))

    @property
    def inner(self) -> tuple[slice, ...]:
        """What of an array as large as the input the network says something of, per axis."""
        return tuple(slice(margin, -margin or None) for margin in self.margins)

    @model_validator(mode="after")
    def _leaves_something(self) -> InputSpec:
        if self.context is None:
            return self
        if len(self.context) != len(self.size.minimum):
            raise ValueError(
                f"context has {len(self.context)} axes and size {len(self.size.minimum)}, give both the same"
            )
        if not any(self.context):
            raise ValueError("context is 0 along every axis, leave it out")
        if min(self.given(self.size.minimum)) < 1:
            raise ValueError(
                f"context {list(self.context)} leaves nothing of the smallest input {list(self.size.minimum)}, "
                "which must be more than twice as large"
            )
        return self

    @model_serializer(mode="wrap")
    def _leave_out_no_context(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = handler(self)
        if self.context is None:  # as it was before there was such a field
            document.pop("context", None)
        return document


class OutputSpec(Node):
    """One output of the network in training; the first one is what it returns in evaluation."""

    name: Name
    """Its key in the dict that the network returns in training with deep supervision."""
    channels: Annotated[int, Field(ge=1, le=1024)]
    """Number of channels: raw logits, without activation."""
    stride: Annotated[tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(strict=False, min_length=2, max_length=3)]
    """Input voxels per output voxel along each axis."""
    loss_weight: Annotated[float, Field(ge=0, le=1000)]
    """The factor of this output's loss in the sum that training minimises."""


class ParameterCounts(Node):
    """Exact numbers of parameters (buffers not counted)."""

    training: Annotated[int, Field(ge=1)]
    """With the deep-supervision heads."""
    inference: Annotated[int, Field(ge=1)]
    """Without them."""


class Flops(Node):
    """Floating-point operations of one forward pass in evaluation."""

    input_shape: Shape
    """The input's shape (B, C, Z, Y, X)."""
    total: Annotated[int, Field(ge=1)]
    """Operations; one multiply-add counts as two, norms and activations are not counted."""


class ProbeOutput(Node):
    """Numbers of one output for name-seeded weights and input."""

    rms: Annotated[float, Field(ge=0)]
    """Root mean square over all elements."""
    values: Annotated[tuple[float, ...], Field(strict=False, min_length=3, max_length=16)]
    """Elements at evenly spaced flat positions."""


class Probe(Node):
    """What the network computes when every weight and the input follow from its name and shape alone."""

    input_shape: Shape
    """The input's shape (B, C, Z, Y, X)."""
    outputs: dict[str, ProbeOutput]
    """Per output name, in evaluation arithmetic."""


class Expectation(Node):
    """What a real build gives; recorded by `zoo record`, proved by `zoo verify`, never typed."""

    parameters: ParameterCounts
    """Parameter counts with and without the deep-supervision heads."""
    buffers: Annotated[int, Field(ge=0)] = 0
    """Number of buffer elements (running statistics and the like)."""
    fingerprint: Sha256
    """Digest over the sorted (key, shape, dtype) of the state dict with all heads."""
    flops: Flops | None = None
    """Cost of a forward pass at a stated input; absent where it was not measured."""
    probe: Probe | None = None
    """Outputs for name-seeded weights; absent where it was not measured."""


class WeightsEntry(Node):
    """Trained weights: where they are, exactly which, of what, how good and whose."""

    source: Literal["package", "hub"] = "package"
    """`package`: the file lies in the folder of the spec; `hub`: in a repository of the Hugging Face Hub."""
    repo: RepoId | None = None
    """Repository on the Hub, `org/name`."""
    revision: Revision | None = None
    """Commit of that repository: 40 hexadecimal digits, since a branch or tag can move."""
    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.safetensors$")]
    """File name, in the folder of the spec or in the repository."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """Digest of the file; a file that differs is refused."""
    size: Annotated[int, Field(ge=1, le=MAX_WEIGHTS_BYTES)] | None = None
    """Bytes of the file; a download of another size is refused before it starts."""
    input_channels: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Input channels of the network that they are of, where these are not the spec's."""
    output_channels: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Output channels of that network, where these are not the spec's."""
    task: Name
    """The task that they solve."""
    dataset: Sentence
    """What they were trained on, with its attribution."""
    license: Sentence
    """Licence of the weights (SPDX identifier where there is one)."""
    split: Sentence | None = None
    """Which part of the data they were trained on, and which they were scored on."""
    recipe: Sentence | None = None
    """How they were trained: steps, patch, precision, and where to find the whole of it."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """Seed of the training."""
    metrics: dict[str, float] = {}
    """Scores on the stated validation data."""
    probe: Probe | None = None
    """What the network computes with these weights for the name-seeded input."""

    @model_validator(mode="after")
    def _complete_place(self) -> WeightsEntry:
        if self.source == "hub" and (self.repo is None or self.revision is None):
            raise ValueError("source hub needs repo (org/name) and revision (the commit, 40 hexadecimal digits)")
        if self.source == "package" and (self.repo is not None or self.revision is not None):
            raise ValueError("repo and revision are of weights on the Hub, write source: hub or leave them out")
        return self


class Source(Node):
    """Where the architecture comes from and how to cite it."""

    paper: Sentence
    """Title of the paper."""
    url: Sentence
    """Address of the paper (DOI or arXiv)."""
    code: Sentence
    """The implementation that builds the network, and the original where that differs."""
    license: Sentence
    """Licence of that implementation (SPDX identifier)."""
    bibtex: Annotated[str, StringConstraints(min_length=10, max_length=4000)] | None = None
    """Citation, where there is one."""


class ModelSpec(Node):
    """One complete model: its network, its interface, what was measured of it, its recipe and its weights."""

    schema_version: Literal[1]
    """Version of this format."""
    name: Name
    """Name of the model; also the stem of its file in a catalogue."""
    version: Version
    """Version of this spec; what determines the network never changes under the same version."""
    family: Name
    """Group of related models; also the folder of its file in a catalogue."""
    summary: Sentence
    """What the model is, in one sentence."""
    builder: Name
    """Which builder makes the network: a name in the catalogue's closed index, never an import path."""
    arch: SerializeAsAny[BuilderConfig]
    """The builder's configuration."""
    input: InputSpec
    """What the network takes."""
    outputs: Annotated[tuple[OutputSpec, ...], Field(strict=False, min_length=1, max_length=16)]
    """What it returns: full resolution first, then the deep-supervision outputs."""
    expect: Expectation | None
    """What a real build gives; null only in a spec whose network was changed and not measured since."""
    training: TrainingSpec
    """The recipe that `zoo train` starts from."""
    weights: dict[Name, WeightsEntry] = {}
    """Trained weights by tag; the first one is what `pretrained=True` loads."""
    source: Source
    """Paper, code, licence and citation."""
    changes: dict[Version, Sentence]
    """What each version changed."""

    @field_validator("arch", mode="before")
    @classmethod
    def _arch_of_builder(cls, value: Any, info: ValidationInfo) -> Any:
        if "builder" not in info.data or isinstance(value, BuilderConfig):
            return value
        config_type: type[BuilderConfig] = builder_module(info.data["builder"]).Config
        return config_type.model_validate(value)

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        names = [output.name for output in self.outputs]
        if len(set(names)) != len(names):
            raise ValueError(f"outputs have the names {names}, each must be different")
        if any(stride != 1 for stride in self.outputs[0].stride):
            raise ValueError(f"the first output has stride {self.outputs[0].stride}, it must be full resolution")
        rank = len(self.input.axes)
        ranks = {len(self.input.size.minimum), *(len(output.stride) for output in self.outputs)}
        if ranks != {rank}:
            raise ValueError(f"input.axes is {self.input.axes!r}, but sizes or strides have {sorted(ranks)} axes")
        if self.version not in self.changes:
            raise ValueError(f"changes has no entry for version {self.version}, say what it changed")
        if not self.input.size.allows(self.training.patch_size):
            raise ValueError(
                f"training.patch_size {list(self.training.patch_size)} is not a legal input size, "
                f"legal are {self.input.size.describe()}"
            )
        return self

    def with_channels(self, *, inputs: int | None = None, outputs: int | None = None) -> ModelSpec:
        """Return the spec with other channels of the input, or of every output; what was measured is not dropped."""
        changes: dict[str, Any] = {}
        if inputs is not None:
            changes["input"] = self.input.model_copy(update={"channels": inputs})
        if outputs is not None:
            changes["outputs"] = tuple(output.model_copy(update={"channels": outputs}) for output in self.outputs)
        return self.model_copy(update=changes)

    def _page(self) -> Page:
        return model_page(self)

    @property
    def reference(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"
