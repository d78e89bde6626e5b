"""`AugmentationSpec`: how patches are varied in training; and what a recipe may say of it: a preset, and changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

from pydantic import Field, SerializerFunctionWrapHandler, create_model, model_serializer, model_validator

from connectomics_zoo.schema.base import Node

Preset = Literal["none", "flips", "full", "isotropic", "anisotropic"]

Probability = Annotated[float, Field(ge=0, le=1)]

ScaleRange = Annotated[
    tuple[Annotated[float, Field(ge=0.25, le=1)], Annotated[float, Field(ge=1, le=4)]], Field(strict=False)
]
"""[least, most], of which the one is at most 1 and the other at least."""


class AugmentationSpec(Node):
    """Everything that may be done to a patch: how often, and how much of it."""

    flip: Probability = 0.0
    """Probability of a flip along each axis."""
    turn: Probability = 0.0
    """Probability of a turn by 0, 90, 180 or 270 degrees in each plane where that keeps shape and voxel size."""
    affine: Probability = 0.0
    """Probability that a patch is rotated and scaled: in 3-D where it is nearly a cube of isotropic voxels, and within
    the section otherwise."""
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 180.0
    """Largest angle of that rotation, to either side."""
    scale: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Largest fraction by which that scaling enlarges or shrinks."""
    rescale: Probability = 0.0
    """Probability that a patch is read at another scale: in 3-D where voxels are isotropic, and within the section
    otherwise."""
    scale_range: ScaleRange = (0.67, 1.5)
    """How large things then appear at least and at most, of 1 as they are; the logarithm is uniform."""
    elastic: Probability = 0.0
    """Probability that a patch is bent smoothly: within the section, and in 3-D where voxels are isotropic."""
    elastic_amplitude: Annotated[float, Field(ge=0, le=64)] = 2.0
    """Standard deviation of the displacement along each axis, in pixels."""
    elastic_spacing: Annotated[float, Field(ge=2, le=1024)] = 24.0
    """Distance of the control points of the displacement, in pixels."""
    misalignment: Probability = 0.0
    """Probability that all sections from one on are displaced, image and labels alike."""
    misalignment_pixels: Annotated[int, Field(ge=0, le=256)] = 17
    """Largest such displacement along each axis."""
    shift: Probability = 0.0
    """Fraction of the sections that slip out of place: the image alone, so that the network learns to bridge it."""
    shift_pixels: Annotated[int, Field(ge=0, le=256)] = 10
    """Largest such displacement along each axis."""
    missing: Probability = 0.0
    """Fraction of the sections that are lost, half of them in one corner only: black, or of some grey value."""
    blur: Probability = 0.0
    """Fraction of the sections that are out of focus."""
    blur_sigma: Annotated[float, Field(ge=0, le=16)] = 2.0
    """Largest standard deviation of that blur, in pixels."""
    cutout: Probability = 0.0
    """Probability that up to three boxes of a patch are of one grey value."""
    cutout_edge: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Largest edge of such a box, as a fraction of the patch's."""
    intensity: Probability = 0.0
    """Probability that grey values, 0 to 1, are varied by gamma, gain, offset and noise."""
    gain: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Largest fraction by which contrast about the patch's mean rises or falls."""
    offset: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Largest brightness that is added or taken."""
    gamma: Annotated[float, Field(ge=0, le=4)] = 0.0
    """The exponent lies between 1 / (1 + gamma) and 1 + gamma."""
    noise: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Largest standard deviation of the noise of a patch."""
    section_intensity: Probability = 0.0
    """Probability that every section has a gain and an offset of its own as well, of half those ranges."""


_PRESETS: dict[Preset, dict[str, float]] = {
    "none": {},
    "flips": {"flip": 0.5, "turn": 1.0},
    "full": {"flip": 0.5, "turn": 1.0, "intensity": 1.0},
    # BANIS (`aug_banis`): symmetries, an affine map of half the patches, gain and offset, sections dropped and shifted
    # along any axis. Its shear, and noise of up to 0.5, are left out: they tear thin processes apart.
    "isotropic": {
        "flip": 0.5,
        "turn": 1.0,
        "affine": 0.5,
        "scale": 0.2,
        "elastic": 0.25,
        "shift": 0.05,
        "shift_pixels": 10,
        "missing": 0.05,
        "intensity": 1.0,
        "gain": 0.1,
        "offset": 0.1,
        "noise": 0.1,
    },
    # DeepEM (`pinky_basil/aug_mip1_v3.py` at 3de7b03) and what PyTorch Connectomics makes of it (`aug_em_neuron`):
    # warps, grey values by section, misalignment up to 17 pixels, slips of the image alone, missing and blurred
    # sections, filled boxes. There, several sections in a row are missing; here, each by itself. Gain and offset are
    # weaker than the second's 0.5 and 0.2, since gamma and the sections' own come on top.
    "anisotropic": {
        "flip": 0.5,
        "turn": 1.0,
        "affine": 0.5,
        "scale": 0.1,
        "elastic": 0.7,
        "misalignment": 0.3,
        "misalignment_pixels": 17,
        "shift": 0.03,
        "shift_pixels": 10,
        "missing": 0.05,
        "blur": 0.05,
        "cutout": 0.2,
        "intensity": 1.0,
        "gain": 0.3,
        "offset": 0.15,
        "gamma": 0.5,
        "section_intensity": 0.5,
    },
}
"""What differs in each preset from the defaults above."""


class _PresetOrChanges(Node):
    """A preset's name, or a mapping of a preset and what is changed of it."""

    preset: Preset = "full"
    """The preset whose values stand where none is given here."""

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_a_preset(cls, value: Any) -> Any:
        if not isinstance(value, str | dict | _PresetOrChanges):
            raise ValueError(f"give a preset ({', '.join(_PRESETS)}) or a mapping")
        return {"preset": value} if isinstance(value, str) else value

    @model_serializer(mode="wrap")
    def _a_preset_alone_is_its_name(self, handler: SerializerFunctionWrapHandler) -> Any:
        given = {name: value for name, value in handler(self).items() if value is not None}
        return self.preset if given.keys() <= {"preset"} else given

    @property
    def described(self) -> str:
        """The preset, and which of its values are changed, in words."""
        changed = [name for name, value in self if name != "preset" and value is not None]
        return f"{self.preset} with another {', '.join(changed)}" if changed else self.preset


if TYPE_CHECKING:

    class AugmentationChanges(_PresetOrChanges):
        """What a recipe says of augmentation."""
else:
    # The same fields as AugmentationSpec, all optional.
    AugmentationChanges = create_model(
        "AugmentationChanges",
        __base__=_PresetOrChanges,
        __doc__="What a recipe says of augmentation.",
        **{
            name: (Optional[field.rebuild_annotation()], None)  # noqa: UP045
            for name, field in AugmentationSpec.model_fields.items()
        },
    )


def augmentation_of(changes: AugmentationChanges | Preset) -> AugmentationSpec:
    """Return every value of a preset, with what is changed of it."""
    if isinstance(changes, str):
        return AugmentationSpec.model_validate(_PRESETS[changes])
    given = {name: value for name, value in changes if name != "preset" and value is not None}
    return AugmentationSpec.model_validate({**_PRESETS[changes.preset], **given})


PRESETS = tuple(_PRESETS)
"""The names of the presets."""
