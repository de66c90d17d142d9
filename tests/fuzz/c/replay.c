/* Runs a fuzz target on files, where there is no libFuzzer: the corpus as a test, and a finding under a debugger.
 *
 *     replay FILE|FOLDER...      a folder's files, not those of folders below it */
#include <dirent.h>

#include "input.h"

static unsigned runs;

static int run_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        return 2;
    }
    static uint8_t bytes[1 << 20];
    const size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    /* Said before the run: when it crashes, this is the last line. */
    fprintf(stderr, "%s: %zu bytes\n", path, size);
    uint8_t *exact = block(size);
    memcpy(exact, bytes, size);
    (void)LLVMFuzzerTestOneInput(exact, size);
    free(exact);
    runs++;
    return 0;
}

static int run_folder(const char *path) {
    DIR *folder = opendir(path);
    if (folder == NULL) {
        return run_file(path);
    }
    int bad = 0;
    for (const struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        if (entry->d_name[0] == '.') {
            continue;
        }
        char name[4096];
        if ((size_t)snprintf(name, sizeof name, "%s/%s", path, entry->d_name) >= sizeof name) {
            bad = 2;
            continue;
        }
        bad |= run_file(name);
    }
    closedir(folder);
    return bad;
}

int main(int count, char **paths) {
    int bad = 0;
    for (int i = 1; i < count; i++) {
        bad |= run_folder(paths[i]);
    }
    printf("%u inputs\n", runs);
    return bad;
}
