#define _GNU_SOURCE /* epoll_pwait */
#include "loop.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define SLEEP_MAX_MS 60000u
#define MOST_HAPPENED 256 /* sockets looked at in a turn */
#define MOST_DUE 256      /* units that work in a turn: then sockets are looked at again */

/* ---- the heap: parent of i at (i - 1) / 2, no later than its children ------------------------------------------- */

static uint32_t unit_when(const kf_unit_t *unit, uint32_t now_ms) {
    uint32_t wait = kf_time_left(now_ms, unit->due_ms);
    if (unit->line == KF_LINE_DOWN) {
        const uint32_t retry = kf_time_left(now_ms, unit->retry_ms);
        wait = retry < wait ? retry : wait;
    }
    return now_ms + wait;
}

static int before(const kf_unit_t *a, const kf_unit_t *b) {
    /* Differences of numbers that wrap; no two are 2^31 apart. */
    const int32_t apart = (int32_t)(a->when_ms - b->when_ms);
    return apart != 0 ? apart < 0 : (int32_t)(a->turn - b->turn) < 0;
}

static void put(kf_loop_t *loop, uint32_t place, uint32_t number) {
    loop->heap[place] = number;
    loop->units[number].place = place;
}

/* The unit at `place` has a new time: move it to where it belongs. */
static void sift(kf_loop_t *loop, uint32_t place) {
    const uint32_t number = loop->heap[place];
    const kf_unit_t *unit = &loop->units[number];
    while (place > 0 && before(unit, &loop->units[loop->heap[(place - 1) / 2]])) {
        put(loop, place, loop->heap[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child >= loop->count) {
            break;
        }
        if (child + 1 < loop->count && before(&loop->units[loop->heap[child + 1]], &loop->units[loop->heap[child]])) {
            child++;
        }
        if (!before(&loop->units[loop->heap[child]], unit)) {
            break;
        }
        put(loop, place, loop->heap[child]);
        place = child;
    }
    put(loop, place, number);
}

/* ---- sockets ---------------------------------------------------------------------------------------------------- */

static uint32_t unit_wants(const kf_unit_t *unit) {
    switch (unit->line) {
    case KF_LINE_CONNECTING:
        return EPOLLOUT;
    case KF_LINE_UP:
        return unit->blocked ? EPOLLIN | EPOLLOUT : EPOLLIN;
    default:
        return 0;
    }
}

/* A unit was touched: watch what it waits for now, and put it back by its time. */
static int settle(kf_loop_t *loop, uint32_t number, uint32_t now_ms) {
    kf_unit_t *unit = &loop->units[number];
    const uint32_t wants = unit_wants(unit);
    if (unit->in >= 0 && wants != unit->watched) {
        struct epoll_event event = {.events = wants, .data.u32 = number};
        if (epoll_ctl(loop->poll, unit->watched == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, unit->in, &event) != 0) {
            perror("kilofed-posix: epoll_ctl");
            return -1;
        }
        unit->watched = wants; /* 0 again when the socket is closed, which ends the watch */
    }
    unit->when_ms = unit_when(unit, now_ms);
    unit->turn = loop->turns++;
    sift(loop, unit->place);
    return 0;
}

int kf_loop_init(kf_loop_t *loop, kf_unit_t *units, uint32_t count, const struct addrinfo *address, uint32_t slice_macs) {
    memset(loop, 0, sizeof *loop);
    loop->units = units;
    loop->address = address;
    loop->slice_macs = slice_macs;
    loop->poll = epoll_create1(EPOLL_CLOEXEC);
    loop->heap = calloc(count, sizeof *loop->heap);
    if (loop->poll < 0 || loop->heap == NULL) {
        perror("kilofed-posix: epoll");
        return -1;
    }
    const uint32_t now = kf_unit_clock();
    for (uint32_t i = 0; i < count; i++) {
        loop->count = i + 1;
        put(loop, i, i);
        if (settle(loop, i, now) != 0) {
            return -1;
        }
    }
    return 0;
}

void kf_loop_free(kf_loop_t *loop) {
    if (loop->poll >= 0) {
        close(loop->poll);
    }
    free(loop->heap);
    memset(loop, 0, sizeof *loop);
    loop->poll = -1;
}

static int happened(kf_loop_t *loop, const struct epoll_event *event, uint32_t now_ms) {
    kf_unit_t *unit = &loop->units[event->data.u32];
    if (unit->line == KF_LINE_CONNECTING) {
        kf_unit_connect(unit, loop->address, now_ms);
    } else if (unit->line == KF_LINE_UP) {
        if ((event->events & EPOLLOUT) != 0) {
            unit->blocked = 0;
            unit->due_ms = now_ms;
        }
        if ((event->events & ~(uint32_t)EPOLLOUT) != 0) {
            (void)kf_unit_read(unit, now_ms); /* a line that has ended is connected again */
        }
    }
    return settle(loop, event->data.u32, now_ms);
}

int kf_loop_turn(kf_loop_t *loop, const sigset_t *inside) {
    struct epoll_event events[MOST_HAPPENED];
    const uint32_t left = kf_time_left(kf_unit_clock(), loop->units[loop->heap[0]].when_ms);
    const int wait = (int)(left < SLEEP_MAX_MS ? left : SLEEP_MAX_MS);
    const int count = epoll_pwait(loop->poll, events, MOST_HAPPENED, wait, inside);
    if (count < 0 && errno != EINTR) {
        perror("kilofed-posix: epoll_pwait");
        return -1;
    }
    const uint32_t now = kf_unit_clock();
    for (int i = 0; i < count; i++) {
        if (happened(loop, &events[i], now) != 0) {
            return -1;
        }
    }
    for (uint32_t i = 0; i < MOST_DUE; i++) {
        const uint32_t number = loop->heap[0];
        kf_unit_t *unit = &loop->units[number];
        if (!kf_time_reached(now, unit->when_ms)) {
            break;
        }
        if (unit->line == KF_LINE_DOWN) {
            kf_unit_connect(unit, loop->address, now);
        }
        if (kf_time_reached(now, unit->due_ms)) {
            kf_unit_work(unit, loop->slice_macs);
        }
        if (settle(loop, number, now) != 0) {
            return -1;
        }
    }
    return 0;
}
