"""Attacks on one topology: what an attacker knows, and how it rebuilds images from representations.

`interface` says what every attack has in common, `scenario` makes the data of one topology and
scores attacks on it; every other file is one attack. `grid` trains its attackers, of the same
networks, for many cells at once.

    scene = make_scenario(weights, parts, Topology(4, (3, 17, 90)), cache_dir="cache")
    fitted = LinearInversion().fit(scene.pairs(), scene.knowledge(PAIRS), jax.random.key(0))
    measure(fitted, scene)["psnr_db"].mean()
"""
