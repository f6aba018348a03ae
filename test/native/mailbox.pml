/* The protocol of native/kvm/exit_mailbox.h: whatever the order of steps, no vCPU is left asleep.
   Neither spin is modelled: a spin is a step that may be left out. */
#define VCPUS 2
#define ASKS 3
mtype = { IDLE, ASKED, TAKEN, ANSWERED, CLOSED };
mtype state[VCPUS] = IDLE;
bool serving, posted; /* posted: Serve() is scheduled on the JS thread */

active [VCPUS] proctype Vcpu() {
  byte asks;
  do
  :: asks < ASKS ->
     if
     :: atomic { state[_pid] != CLOSED -> state[_pid] = ASKED }
     :: else -> break
     fi;
     if :: !serving -> posted = true :: else fi;
     state[_pid] != ASKED; /* the futex, twice */
     state[_pid] != TAKEN;
     asks++
  :: else -> break
  od
}

inline AnswerPending() {
  any = false;
  for (i : 0 .. VCPUS - 1) {
    if
    :: state[i] == ASKED -> state[i] = ANSWERED; any = true
    :: state[i] == ASKED -> state[i] = TAKEN
    :: else
    fi
  }
}

active proctype Js() {
  bool any, closes; /* a run in which it never closes must come to its end, too */
  byte i;
  if :: closes = true :: closes = false fi;
end_idle:
  if
  :: posted -> posted = false
  :: state[0] == TAKEN -> state[0] = ANSWERED; goto end_idle /* what was taken has its answer */
  :: state[1] == TAKEN -> state[1] = ANSWERED; goto end_idle
  :: closes -> for (i : 0 .. VCPUS - 1) { state[i] = CLOSED }; goto closed
  fi;
more:
  serving = true;
  AnswerPending();
  if
  :: any -> goto more
  :: posted = true; goto end_idle /* cut short: it is scheduled again, and `serving` stays */
  :: !any -> serving = false
  fi;
  AnswerPending();
  if :: any -> goto more :: else -> goto end_idle fi;
closed:
  skip
}
