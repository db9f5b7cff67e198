"""SNOMED CT codes of the regions, as DICOM uses them (PS3.16 CID 7140 and 7153).

DICOM has no codes of gyri: each gyrus is coded as cerebral cortex, with its lobe.
"""

from __future__ import annotations

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from slant.labels import Region

_STRUCTURES = {
    "3rd Ventricle": codes.SCT.ThirdVentricle,
    "4th Ventricle": codes.SCT.FourthVentricle,
    "Accumbens Area": codes.SCT.NucleusAccumbens,
    "Amygdala": codes.SCT.Amygdala,
    "Brain Stem": codes.SCT.BrainStem,
    "Caudate": codes.SCT.CaudateNucleus,
    "Cerebellum Exterior": codes.SCT.CerebellarCortex,
    "Cerebellum White Matter": codes.SCT.CerebellarWhiteMatter,
    "Cerebral White Matter": codes.SCT.CerebralWhiteMatter,
    "Hippocampus": codes.SCT.Hippocampus,
    "Inf Lat Vent": codes.SCT.InferiorHornOfLateralVentricle,
    "Lateral Ventricle": codes.SCT.LateralVentricle,
    "Pallidum": codes.SCT.GlobusPallidus,
    "Putamen": codes.SCT.Putamen,
    "Thalamus Proper": codes.SCT.Thalamus,
    "Ventral DC": codes.SCT.Diencephalon,
    "Ent entorhinal area": codes.SCT.EntorhinalCortex,
    "AIns anterior insula": codes.SCT.Insula,
    "PIns posterior insula": codes.SCT.Insula,
}
_LOBES = {
    "frontal": codes.SCT.FrontalLobe,
    "temporal": codes.SCT.TemporalLobe,
    "parietal": codes.SCT.ParietalLobe,
    "occipital": codes.SCT.OccipitalLobe,
    "limbic": codes.SCT.LimbicLobe,
}
_GROUPS = {"cerebellum": codes.SCT.Cerebellum}
_TISSUES = {"gray": codes.SCT.GrayMatter, "white": codes.SCT.WhiteMatter, "csf": codes.SCT.CerebrospinalFluid}
_SIDES = {"L": codes.SCT.Left, "R": codes.SCT.Right}


def structure_code(region: Region) -> Code:
    """Closest code: of the structure, cerebral cortex for a gyrus, otherwise of the cerebellum or the tissue."""
    stem = region.name.removeprefix("Left ").removeprefix("Right ")
    general = codes.SCT.CerebralCortex if region.lobe in _LOBES else _TISSUES.get(region.tissue, codes.SCT.Brain)
    code: Code = _STRUCTURES.get(stem, _GROUPS.get(region.lobe, general))
    return code


def lobe_code(region: Region) -> Code | None:
    """Code of the lobe of a cortical region; None for other regions."""
    return _LOBES.get(region.lobe)


def side_code(region: Region) -> Code | None:
    """Code of left or right; None for regions of the midline."""
    return _SIDES.get(region.hemisphere)
