"""What an inference takes: exact instructions, modelled cycles, and where they go.

    from kilofed.profiling import engine, figures, profile
    found = figures.measure(model, engine.core("m4f"))      what `kilofed bench` prints
    where = profile.of(model, load("mps2-an386"))           what `kilofed profile` prints

`engine` builds and runs the device's engine alone on an emulated core, `counts` reads what ran there,
`listing` the code it ran, `cycles` has the cores' timings, `yardstick` what other engines take.
"""
