/* kilofed for sketches: the C library's headers (kilofed/kilofed.h is their manual), fit for C++. */
#ifndef KILOFED_LIBRARY_H
#define KILOFED_LIBRARY_H

/* The headers below include these; C++ must see them outside of extern "C". */
#include <stddef.h>
#include <stdint.h>

extern "C" {
#include "kilofed/kilofed.h"
}

#endif
