# kilofed-posix, the core as a native process; included by the firmware's CMakeLists.txt when no board is chosen.
add_executable(kilofed-posix port/posix/main.c port/posix/loop.c port/posix/mdns.c port/posix/options.c port/posix/unit.c)
target_compile_options(kilofed-posix PRIVATE ${KF_WARNINGS})
target_link_libraries(kilofed-posix PRIVATE kilofed)
