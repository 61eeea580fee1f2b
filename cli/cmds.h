/* SPDX-License-Identifier: MIT */
/* The subcommands, each in a file of its own. */
#ifndef SOBRE_CLI_CMDS_H
#define SOBRE_CLI_CMDS_H

#include "args.h"

extern const command cmd_run, cmd_tokenize, cmd_logits, cmd_bench, cmd_inspect, cmd_devices,
    cmd_doctor;

#endif
