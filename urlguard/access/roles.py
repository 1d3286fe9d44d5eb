"""
The roles that a token can have.  A token has one.

========  ========================================  ==============================================
role      who has it                                what for
========  ========================================  ==============================================
reporter  a person or program that sends single     submissions with comment and evidence, and
          URLs: a help desk, an SMS centre          what became of them
crawler   a program that finds candidates           candidates in bulk, and what became of them
analyst   who looks at cases                        claims and decides cases, makes rules, asks why
approver  the second person                         confirms what is held for one; decides appeals
auditor   who checks the others' work               reads everything, the log above all, and
                                                    changes nothing
admin     who runs the server                       tokens, webhooks, how it runs
========  ========================================  ==============================================

This says what each is meant for.  Which request a role may make is decided in one table of
`urlguard.api`, where the requests are.  A person with two tasks has two tokens, so that the audit
shows in which of them somebody acted.
"""

from enum import StrEnum


class Role(StrEnum):
    """A role; its value is the word in the database, on the command line and in JSON."""

    REPORTER = "reporter"
    CRAWLER = "crawler"
    ANALYST = "analyst"
    APPROVER = "approver"
    AUDITOR = "auditor"
    ADMIN = "admin"
