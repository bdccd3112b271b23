/* User programs for lockstep: the first argument says which one this is. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static sigjmp_buf again;
static volatile sig_atomic_t taken;

static void handler(int signal) {
  taken++;
  if (signal == SIGSEGV) siglongjmp(again, 1);
}

/* Faults and signals of its own, each taken by a handler. */
static int signals(void) {
  signal(SIGSEGV, handler);
  signal(SIGUSR1, handler);
  for (int turn = 0; turn < 50; turn++) {
    if (!sigsetjmp(again, 1)) *(volatile int *)8 = 1;
    raise(SIGUSR1);
    kill(getpid(), SIGUSR1);
  }
  printf("%d taken\n", taken);
  return 0;
}

/* Code that is written, called, and written again. */
static int modifies(void) {
  unsigned char *code = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  /* mov eax, N; ret. And: inc dword [rip + 2]; nop; mov eax, N; ret, whose N it counts up. */
  static const unsigned char returns[] = {0xb8, 0, 0, 0, 0, 0xc3};
  static const unsigned char counts[] = {0xff, 0x05, 2, 0, 0, 0, 0x90, 0xb8, 5, 0, 0, 0, 0xc3};
  long sum = 0;
  memcpy(code, returns, sizeof returns);
  memcpy(code + 64, counts, sizeof counts);
  for (int turn = 0; turn < 500; turn++) {
    memcpy(code + 1, &turn, 4);
    sum += ((int (*)(void))code)();
    sum += ((int (*)(void))(code + 64))();
  }
  printf("%ld\n", sum);
  return 0;
}

/* String instructions that are repeated: never, once, often, up to what is found; and one that writes over itself. */
static int repeats(void) {
  static unsigned char from[200000], to[200000];
  unsigned long found = 0;
  for (int place = 0; place < 200000; place++) from[place] = place % 251;
  static const long counts[] = {0, 1, 2, 3, 1000, 65535, 65536, 65537, 200000};
  for (int turn = 0; turn < 9; turn++) {
    long left = counts[turn];
    void *source = from, *target = to;
    __asm__ volatile("rep movsb" : "+S"(source), "+D"(target), "+c"(left) : : "memory");
    left = counts[turn];
    source = from, target = to;
    __asm__ volatile("repe cmpsb" : "+S"(source), "+D"(target), "+c"(left) : : "memory", "cc");
    left = counts[turn], target = to;
    __asm__ volatile("repne scasb" : "+D"(target), "+c"(left) : "a"(250) : "memory", "cc");
    found += left;
    left = counts[turn] / 8, target = to;
    __asm__ volatile("rep stosq" : "+D"(target), "+c"(left) : "a"(found) : "memory");
    left = counts[turn] / 4, source = to;
    __asm__ volatile("rep lodsl" : "+S"(source), "+c"(left) : : "rax", "memory");
  }
  /* mov al, 0xc3; mov ecx, 64; lea rdi, [rip - 46]; rep stosb, which comes by its own bytes; ret, which is what it writes. */
  static const unsigned char code[] = {0xb0, 0xc3, 0xb9, 64, 0, 0, 0, 0x48, 0x8d, 0x3d, 0xd2, 0xff, 0xff, 0xff, 0xf3, 0xaa, 0xc3};
  unsigned char *page = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memcpy(page + 64, code, sizeof code);
  ((void (*)(void))(page + 64))();
  printf("%lu %d\n", found, to[5] + page[64]);
  return 0;
}

static int tells_time(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  printf("%ld.%09ld\n", (long)now.tv_sec, now.tv_nsec);
  return 0;
}

/* The time comes to nothing that is compared. */
static int asks_time(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  puts("asked");
  return 0;
}

static int random_bytes(void) {
  unsigned long bytes[4];
  if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) return 1;
  printf("%lx %lx, %d\n", bytes[0], bytes[3], getpid());
  return 0;
}

static void *nothing(void *argument) { return argument; }

static int threads(void) {
  pthread_t thread;
  pthread_create(&thread, 0, nothing, 0);
  pthread_join(thread, 0);
  return 0;
}

static int children(void) {
  for (int number = 0; number < 3; number++) {
    int status;
    pid_t child = fork();
    if (child == 0) {
      printf("child %d\n", number);
      fflush(stdout);
      _exit(number);
    }
    waitpid(child, &status, 0);
    printf("ended with %d\n", WEXITSTATUS(status));
    fflush(stdout);
  }
  return 0;
}

static int faults(void) {
  puts("before");
  fflush(stdout);
  *(volatile int *)16 = 1;
  return 0;
}

/* `adcx`, where the processor has it. */
static int __attribute__((noinline)) adds(void) {
  unsigned long sum = 1, carried = 2;
  __asm__ volatile("clc\n\tadcx %1, %0" : "+r"(sum) : "r"(carried) : "cc");
  return printf("%lu\n", sum) < 0;
}

int main(int count, char **words) {
  static const struct {
    const char *name;
    int (*run)(void);
  } programs[] = {{"signals", signals}, {"modifies", modifies}, {"repeats", repeats}, {"tells-time", tells_time}, {"asks-time", asks_time},
                  {"random", random_bytes}, {"threads", threads}, {"children", children}, {"faults", faults},
                  {"adds", adds}, {"aborts", (int (*)(void))abort}};
  for (size_t place = 0; count > 1 && place < sizeof programs / sizeof *programs; place++)
    if (!strcmp(words[1], programs[place].name)) return programs[place].run();
  if (count > 1 && !strcmp(words[1], "runs")) return execv(words[2], words + 2);
  if (count > 1 && !strcmp(words[1], "waits")) return pause();
  return 9;
}
