/* SPDX-License-Identifier: MIT */
/* A library that is no plugin. */
int no_plugin_at_all(void);
int no_plugin_at_all(void)
{
    return 1;
}
