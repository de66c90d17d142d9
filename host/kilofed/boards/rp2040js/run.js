// Plays an RP2040 board by rp2040js, to whoever holds the other ends of three sockets:
//
//   node run.js LIBRARY SERIAL GDB CONTROL [FILE@ADDRESS ...]
//
// LIBRARY: the folder of rp2040js. SERIAL, GDB: descriptors of listening sockets, for the board's UART0 and for the GDB remote
// protocol. CONTROL: of a connected one, which speaks as much of QEMU's machine protocol as kilofed.boards.emulator uses:
// qmp_capabilities, query-status, memsave, quit, and the event RESUME. FILE@ADDRESS: placed into flash at the start.
//
// The board starts halted. A debugger that connects halts it; one that detaches lets it go. Its time is this machine's: what
// the emulator is slower than the chip shows as a slower core, not as a slower clock, as with QEMU. A fault inside the fault
// handler ends the process by SIGABRT, with "Lockup" in what it prints.
'use strict';

const crypto = require('crypto');
const fs = require('fs');
const net = require('net');

const [library, serialFd, gdbFd, controlFd, ...files] = process.argv.slice(2);
const { RP2040, GDBServer, GDBConnection, BasePeripheral } = require(library);

const FLASH = 0x10000000;
const FLASH_BYTES = 2 * 1024 * 1024;
const RAM = 0x20000000;
const SECOND_STAGE = 0x20041f00; // datasheet 2.8.1.3: where the boot ROM copies it to
const HARD_FAULT = 3;
const BATCH = 10000; // instructions between two looks at the time: below a millisecond
const BYTE_INSTRUCTIONS = 300; // between two received bytes at least, so that a flood leaves the core to its work
const CPUID = 0xe000ed00;

// ---- the chip ----------------------------------------------------------------------------------------------------

const chip = new RP2040();
const { core, clock } = chip;
const uart = chip.uart[0];
// rp2040js tells of registers that it does not model; only of instructions that there are none of something must come.
chip.logger = {
  debug() {},
  info() {},
  warn(from, text) {
    if (/^Warning: Instruction/.test(text)) {
      core.PC -= 2;
      fault();
    }
  },
  error(from, text) {
    lockup(`${from}: ${text}`);
  },
};

// 2.17.8: RANDOMBIT is what firmware reads; the rest reads as a ring oscillator that runs.
class RingOscillator extends BasePeripheral {
  readUint32(offset) {
    return offset === 0x1c ? crypto.randomBytes(1)[0] & 1 : offset === 0x18 ? 0x80001000 : 0;
  }
  writeUint32() {}
}
chip.peripherals[0x40060] = new RingOscillator(chip, 'ROSC');

function lockup(why) {
  console.error(`Lockup: ${why} at pc ${core.PC.toString(16)}, lr ${(core.LR >>> 0).toString(16)}`);
  console.error([...core.registers].map((r, i) => `r${i} ${(r >>> 0).toString(16)}`).join(' '));
  flush();
  if (serial) {
    serial.end(() => process.abort()); // its last words first
    serial = null;
  } else {
    process.abort();
  }
  halted = true;
}

function fault() {
  if ((core.IPSR & 0x3f) === HARD_FAULT) {
    lockup('a fault in the fault handler');
  } else {
    core.exceptionEntry(HARD_FAULT);
  }
}

chip.onBreak = () => {
  core.PC -= core.breakRewind;
  fault();
};

// What the boot ROM does at power up (2.8.1): check the second stage, copy it to RAM and run it. Without one that holds it
// would show its USB volume; here the board then stays as it is, silent.
function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte << 24;
    for (let bit = 0; bit < 8; bit++) {
      crc = crc & 0x80000000 ? (crc << 1) ^ 0x04c11db7 : crc << 1;
    }
  }
  return crc >>> 0;
}

let boots = false;

function powerUp() {
  const flash = chip.flash.slice();
  core.VTOR = 0;
  core.interruptsUpdated = false;
  core.pendingInterrupts = core.enabledInterrupts = 0;
  core.IPSR = 0;
  core.PM = false;
  core.waiting = false;
  chip.reset(); // which erases flash
  chip.flash.set(flash);
  uart.writeUint32(0x38, 0); // its interrupts off
  chip.ppb.writeUint32(0x010, 0); // SysTick too
  while (!uart.rxFIFO.empty) {
    uart.rxFIFO.pull();
  }
  const stage = chip.flash.subarray(0, 252);
  boots = chip.flashView.getUint32(252, true) === crc32(stage);
  chip.sram.set(chip.flash.subarray(0, 256), SECOND_STAGE - RAM);
  core.SP = RAM + chip.sram.length - 0x100;
  core.LR = 0;
  core.PC = SECOND_STAGE;
}

chip.flash.fill(0xff);
for (const file of files) {
  const at = file.lastIndexOf('@');
  chip.flash.set(fs.readFileSync(file.slice(0, at)), Number(file.slice(at + 1)) - FLASH);
}
powerUp();

// ---- the serial port ---------------------------------------------------------------------------------------------

let serial = null;
let incoming = []; // buffers that came and are not yet in the UART
let position = 0;
let outgoing = [];
uart.onByte = (byte) => outgoing.push(byte);

function flush() {
  if (outgoing.length) {
    // As on a line without a listener, what nobody reads is lost.
    if (serial && !serial.destroyed) {
      serial.write(Buffer.from(outgoing));
    }
    outgoing = [];
  }
}

function feed() {
  if (!incoming.length || !uart.enabled || !uart.rxEnabled || uart.rxFIFO.full) {
    return;
  }
  uart.feedByte(incoming[0][position++]);
  if (position === incoming[0].length) {
    incoming.shift();
    position = 0;
    if (serial && !incoming.length) {
      serial.resume();
    }
  }
}

const serialServer = net.createServer((socket) => {
  if (serial) {
    serial.destroy();
  }
  serial = socket;
  incoming = [];
  position = 0;
  socket.setNoDelay(true);
  socket.on('data', (data) => {
    incoming.push(data);
    socket.pause(); // the line pushes back: no more until this is in
    wake();
  });
  socket.on('error', () => socket.destroy());
  socket.on('close', () => {
    if (serial === socket) {
      serial = null;
    }
  });
});
serialServer.listen({ fd: Number(serialFd) });

// ---- running -----------------------------------------------------------------------------------------------------

let halted = true;
let timer = null;
let lastNanos = process.hrtime.bigint();

function wake() {
  if (timer) {
    clearTimeout(timer);
    timer = null;
    setImmediate(run);
  }
}

function run() {
  timer = null;
  const now = process.hrtime.bigint();
  // Never more than a tenth of a second at once: a machine that was asleep must not make up for it.
  clock.tick(Math.min(Number(now - lastNanos), 1e8));
  lastNanos = now;
  if (halted || !boots) {
    timer = setTimeout(run, 50);
    return;
  }
  // rp2040js wakes a core by itself only for the interrupts of peripherals, not for SysTick's.
  if (core.waiting && core.interruptsUpdated && core.checkForInterrupts()) {
    core.waiting = false;
  }
  let next = 0;
  for (let done = 0; done < BATCH && !core.waiting && !halted; done++) {
    if (done >= next) {
      feed();
      next = done + BYTE_INSTRUCTIONS;
    }
    core.executeInstruction();
  }
  if (core.waiting) {
    feed(); // raises the UART's interrupt, which ends the wait
  }
  flush();
  if (core.waiting && !halted) {
    const nanos = clock.nanosToNextAlarm;
    timer = setTimeout(run, nanos > 0 ? Math.min(Math.ceil(nanos / 1e6), 50) : 50);
  } else {
    setImmediate(run);
  }
}

// ---- the debugger ------------------------------------------------------------------------------------------------

const target = {
  rp2040: chip,
  get executing() {
    return !halted;
  },
  execute() {
    halted = false;
    say({ event: 'RESUME' });
    wake();
  },
  stop() {
    halted = true;
  },
};

// The memory that a debugger and `memsave` see: null where there is none.
function memory(address, size) {
  for (const [origin, bytes] of [
    [FLASH, chip.flash.subarray(0, FLASH_BYTES)],
    [RAM, chip.sram],
  ]) {
    if (address >= origin && address + size <= origin + bytes.length) {
      return bytes.subarray(address - origin, address - origin + size);
    }
  }
  return null;
}

const checksum = (text) => [...text].reduce((sum, letter) => (sum + letter.charCodeAt(0)) & 0xff, 0);
const packet = (text) => `$${text}#${checksum(text).toString(16).padStart(2, '0')}`;

class Debugger extends GDBServer {
  processGDBMessage(command) {
    const access = /^([mM])([0-9a-f]+),([0-9a-f]+)(?::([0-9a-f]*))?$/.exec(command);
    if (access) {
      const address = parseInt(access[2], 16);
      const size = parseInt(access[3], 16);
      const found = memory(address, size);
      if (access[1] === 'M') {
        const bytes = Buffer.from(access[4] || '', 'hex');
        if (!found || bytes.length !== size) {
          return packet('E01');
        }
        found.set(bytes);
        return packet('OK');
      }
      if (found) {
        return packet(Buffer.from(found).toString('hex'));
      }
      if (address === CPUID && size === 4) {
        return packet('01c60c41'); // 0x410cc601, little endian (2.4.8)
      }
      return packet('E01');
    }
    if (command.startsWith('qRcmd,')) {
      if (Buffer.from(command.slice(6), 'hex').toString() !== 'system_reset') {
        return packet('E01');
      }
      powerUp();
      return packet('OK');
    }
    if (command === 'D' || command.startsWith('D;')) {
      target.execute();
      return packet('OK');
    }
    return super.processGDBMessage(command);
  }
  addConnection(connection) {
    this.connections.add(connection); // breakpoints are not for us: an undefined instruction is a fault
  }
}

const server = new Debugger(target);
server.logger = chip.logger;
const gdbServer = net.createServer((socket) => {
  socket.setNoDelay(true);
  target.stop();
  const connection = new GDBConnection(server, (text) => socket.write(text));
  socket.on('data', (data) => connection.feedData(data.toString('latin1')));
  socket.on('error', () => socket.destroy());
  socket.on('close', () => server.removeConnection(connection));
});
gdbServer.listen({ fd: Number(gdbFd) });

// ---- whoever started it ------------------------------------------------------------------------------------------

const control = new net.Socket({ fd: Number(controlFd), readable: true, writable: true });
const say = (message) => control.write(`${JSON.stringify(message)}\n`);

const commands = {
  qmp_capabilities: () => ({}),
  'query-status': () => ({ status: halted ? 'paused' : 'running' }),
  memsave({ val, size, filename }) {
    const found = memory(val, size);
    if (!found) {
      throw new Error(`there is no memory at 0x${val.toString(16)}`);
    }
    fs.writeFileSync(filename, found);
    return {};
  },
  quit() {
    setImmediate(() => process.exit(0));
    return {};
  },
};

let text = '';
control.on('data', (data) => {
  text += data.toString();
  for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
    const request = JSON.parse(text.slice(0, end));
    text = text.slice(end + 1);
    try {
      if (!(request.execute in commands)) {
        throw new Error(`there is no command ${request.execute}`);
      }
      say({ return: commands[request.execute](request.arguments || {}) });
    } catch (error) {
      say({ error: { desc: error.message } });
    }
  }
});
control.on('error', () => process.exit(0));
control.on('close', () => process.exit(0)); // nobody is left who could want this board
say({ QMP: {} });
run();
