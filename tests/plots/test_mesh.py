"""The cortical renderer: sampling against nilearn, the raster against a loop over triangles."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nilearn.datasets import fetch_surf_fsaverage

from brainlens.plots import mesh
from brainlens.types import DataError, Sensors, Surface, Volume


def smooth_volume(step: float = 4.0) -> tuple[Volume, np.ndarray]:
    affine = np.diag([-step, step, step, 1.0])
    affine[:3, 3] = (90, -126, -72)
    space = Volume(np.ones((46, 55, 46), dtype=bool), affine)
    x, y, z = space.coordinates().T
    return space, np.sin(x / 25) + y / 80 + np.cos(z / 30)


def test_sampling_a_volume_agrees_with_nilearn() -> None:
    import nibabel
    from nilearn import datasets, surface

    space, values = smooth_volume()
    fsaverage = datasets.fetch_surf_fsaverage("fsaverage5")
    image = nibabel.Nifti1Image(space.fill(values), space.affine)
    ours = mesh.on_surface(values, space)
    for side in mesh.HEMISPHERES:
        inner, depths = fsaverage[f"white_{side}"], [0.1, 0.3, 0.5, 0.7, 0.9]
        theirs = surface.vol_to_surf(image, fsaverage[f"pial_{side}"], inner_mesh=inner, kind="depth", depth=depths)
        known = np.isfinite(ours[side]) & np.isfinite(theirs)
        assert known.mean() > 0.99
        # nilearn counts depth from the other surface; the set of depths is symmetric, so their mean is the same.
        assert np.abs(ours[side][known] - theirs[known]).max() < 0.05
        assert np.corrcoef(ours[side][known], theirs[known])[0, 1] > 0.9999


def test_a_linear_field_is_sampled_exactly() -> None:
    space, _ = smooth_volume()
    values = space.coordinates() @ [1.0, -2.0, 0.5]
    ours = mesh.on_surface(values, space)["left"]
    middle = (mesh.mesh("white", "left")[0] + mesh.mesh("pial", "left")[0]) / 2
    np.testing.assert_allclose(ours, middle @ [1.0, -2.0, 0.5], atol=1e-3)


def test_missing_voxels_are_left_out_and_not_counted_as_zero() -> None:
    space, _ = smooth_volume()
    values = np.full(len(space), 3.0)
    values[space.coordinates()[:, 2] > 0] = np.nan
    ours = mesh.on_surface(values, space)["right"]
    assert np.isnan(ours).any()
    np.testing.assert_allclose(ours[np.isfinite(ours)], 3.0, atol=1e-12)
    top = mesh.mesh("pial", "right")[0][:, 2] > 12
    assert np.isnan(ours[top]).all()


def write_spheres(folder: Path) -> dict[str, np.ndarray]:
    """fsLR on the sphere of fsaverage as the HCP's files have it, here a spiral of evenly spaced points."""
    from nibabel.gifti import GiftiDataArray, GiftiImage

    k = np.arange(32_492) + 0.5
    z, turn = 1 - 2 * k / 32_492, np.pi * (1 + 5**0.5) * k
    points = 100 * np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], axis=1)
    for letter in "LR":
        parts = [GiftiDataArray(points.astype("f4"), "NIFTI_INTENT_POINTSET"), GiftiDataArray(np.zeros((1, 3), "i4"))]
        nib.save(GiftiImage(darrays=parts), folder / f"fs_LR-deformed_to-fsaverage.{letter}.sphere.32k_fs_LR.surf.gii")
    return {"left": points, "right": points}


@pytest.mark.parametrize("name", ["fsaverage5", "fsaverage", "fs_LR_32k"])
def test_each_family_of_surfaces_is_drawn_where_its_vertices_lie(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that changes smoothly over the sphere of the family, its height, comes out as the height on fsaverage5."""
    spheres = write_spheres(tmp_path)
    monkeypatch.setenv("BRAINLENS_FSLR", str(tmp_path))
    sides = ("left", "right")
    coarse = {side: np.asarray(nib.load(fetch_surf_fsaverage("fsaverage5")[f"sphere_{side}"]).darrays[0].data) for side in sides}
    points = spheres if name == "fs_LR_32k" else coarse
    count = {side: len(points[side]) for side in sides}
    space = Surface(name, np.repeat(sides, [count[side] for side in sides]), np.concatenate([np.arange(count[s]) for s in sides]))
    found = mesh.on_surface(np.concatenate([points[side][:, 2] for side in sides]), space)
    for side in sides:
        assert np.isfinite(found[side]).all()
        assert np.abs(found[side] - coarse[side][:, 2]).max() < 2.0  # mm on a sphere of 100; vertices of fsLR are 2 mm apart
    few = Surface(name, np.array(["left"]), np.array([7]))
    one = mesh.on_surface(np.ones(1), few)
    assert np.isnan(one["right"]).all()
    assert np.isfinite(one["left"]).sum() <= 1 if name != "fs_LR_32k" else np.isfinite(one["left"]).sum() < 5


def test_fslr_without_its_spheres_says_where_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAINLENS_FSLR", str(tmp_path))
    space = Surface("fs_LR_32k", np.array(["left"]), np.array([0]))
    with pytest.raises(DataError, match=r"fs_LR-deformed_to-fsaverage.L.sphere.*standard_mesh_atlases.*BRAINLENS_FSLR"):
        mesh.on_surface(np.ones(1), space)
    (tmp_path / "fs_LR-deformed_to-fsaverage.L.sphere.32k_fs_LR.surf.gii").write_text("no mesh")
    with pytest.raises(DataError, match="is damaged or of another format"):
        mesh.on_surface(np.ones(1), space)


def test_labels_are_taken_from_the_nearest_voxel() -> None:
    space, _ = smooth_volume()
    labels = np.random.default_rng(0).integers(0, 5, len(space)).astype(float)
    found = mesh.on_surface(labels, space, nearest=True)["left"]
    assert set(found[np.isfinite(found)]) <= {0.0, 1.0, 2.0, 3.0, 4.0}


def test_nested_meshes_keep_their_first_vertices() -> None:
    vertex = np.arange(163842)
    space = Surface("fsaverage", np.repeat("left", len(vertex)), vertex)
    ours = mesh.on_surface(vertex.astype(float), space)
    np.testing.assert_array_equal(ours["left"], np.arange(mesh.N_VERTICES))
    assert np.isnan(ours["right"]).all()


def test_raster_agrees_with_a_loop_over_triangles() -> None:
    rng = np.random.default_rng(1)
    column, row, depth = rng.uniform(2, 27, 30), rng.uniform(2, 17, 30), rng.normal(size=30)
    triangles = np.stack([rng.choice(30, 3, replace=False) for _ in range(40)])
    chosen, weights = mesh._raster(column, row, depth, triangles, (20, 30))
    for r in range(20):
        for c in range(30):
            best, nearest = None, -np.inf
            for triangle in triangles:
                corner = np.stack([column[triangle], row[triangle], np.ones(3)])
                if abs(np.linalg.det(corner)) < 1e-9:
                    continue
                w = np.linalg.solve(corner, [c, r, 1.0])
                if (w >= -1e-6).all() and w @ depth[triangle] > nearest:
                    best, nearest = (triangle, w), w @ depth[triangle]
            if best is None:
                assert not weights[r, c].any()
            else:
                np.testing.assert_allclose(weights[r, c] @ depth[chosen[r, c]], nearest, atol=1e-8)
                np.testing.assert_allclose(weights[r, c] @ column[chosen[r, c]], c, atol=1e-6)


@pytest.mark.parametrize("hemisphere", mesh.HEMISPHERES)
def test_views_look_from_where_they_say(hemisphere: str) -> None:
    """Each view shows vertices of its own side: what is seen laterally lies away from the midline, and so on."""
    infl = mesh.mesh("infl", hemisphere)[0]
    out = infl[:, 0] * (1 if hemisphere == "right" else -1)
    direction = {"lateral": out, "medial": -out, "ventral": -infl[:, 2], "dorsal": infl[:, 2], "posterior": -infl[:, 1]}
    for side, towards in direction.items():
        seen = mesh.view(side, hemisphere)
        shown = np.unique(seen.vertices[seen.weights.sum(axis=2) > 0.5])
        assert towards[shown].mean() > towards.mean() + 5, side
        assert 0 <= seen.shade.min() <= seen.shade.max() <= 1
    lateral = mesh.interpolate(mesh.view("lateral", hemisphere), infl[:, 1])
    halves = np.nanmean(lateral[:, : lateral.shape[1] // 2]), np.nanmean(lateral[:, lateral.shape[1] // 2 :])
    front_right = hemisphere == "right"
    assert (halves[1] > halves[0]) == front_right
    height = mesh.interpolate(mesh.view("lateral", hemisphere), infl[:, 2])
    assert np.nanmean(height[: len(height) // 2]) > np.nanmean(height[len(height) // 2 :])


def test_interpolation_of_a_constant_and_of_a_gap() -> None:
    seen = mesh.view("medial", "left")
    inside = seen.weights.sum(axis=2) > 0.5
    np.testing.assert_allclose(mesh.interpolate(seen, np.full(mesh.N_VERTICES, 2.5))[inside], 2.5, atol=1e-9)
    assert np.isnan(mesh.interpolate(seen, np.full(mesh.N_VERTICES, np.nan))).all()
    assert np.isnan(mesh.interpolate(seen, np.ones(mesh.N_VERTICES))[~inside]).all()


@pytest.mark.parametrize(
    "values, space, message",
    [
        (np.ones(2), Sensors(np.array(["a", "b"]), np.ones((2, 3))), "plots.sensors"),
        (np.ones(2), None, "Volume"),
        (np.ones(3), Volume(np.ones((2, 1, 1), bool), np.eye(4)), "does not fit"),
        (np.ones(1), Surface("civet", np.array(["left"]), np.array([0])), "civet"),
    ],
)
def test_bad_input_is_named(values: np.ndarray, space: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        mesh.on_surface(values, space)  # type: ignore[arg-type]


def test_unknown_view_is_named() -> None:
    with pytest.raises(DataError, match="oblique"):
        mesh.view("oblique", "left")
