"""A table of episodes as `experiments.check_planning` writes it."""

from privynet_jax.results.text_tables import as_csv

MORE_SSIM = 0.25  # than measured, in every audit


def rows(differences, image_size=32):
    """One of each source, whose audit found so many dB more than the plan had measured."""
    return [
        {
            **{"rule": "measured", "source": f"s{index}", "statistic": "mean"},
            **{"limit_psnr_db": 22.0, "measured_psnr_db": 20.0, "audited_psnr_db": 20.0 + more},
            **{"measured_ssim": 0.5, "audited_ssim": 0.5 + MORE_SSIM, "balanced_accuracy": 0.5},
            "image_size": image_size,
        }
        for index, more in enumerate(differences)
    ]


def write(path, differences, image_size=32):
    """Writes such a table, and returns its place."""
    path.write_text(as_csv(rows(differences, image_size)))
    return path
